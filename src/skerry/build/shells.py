"""A shell in the state of a step: a container on its layers, with its environment and mounts."""

from typing import Any, Final

from skerry.base.architectures import architecture
from skerry.base.errors import InvalidInput, NotFound
from skerry.base.oci_image import Descriptor
from skerry.build.results import make_image
from skerry.build.solver import Failed
from skerry.build.state import State
from skerry.engine.container import Container
from skerry.engine.engine import Engine
from skerry.store.commit import layers_of, timestamp
from skerry.store.steps import Step

LABEL: Final = "skerry.build.shell"
_SHELLS: Final = ("/bin/bash", "/bin/sh")
_MIN_PREFIX: Final = 4


def find_step(engine: Engine, text: str) -> Step:
    """A recorded step by its key or the beginning of it. NotFound, InvalidInput."""
    if len(text) < _MIN_PREFIX or not text.isalnum():
        raise InvalidInput(f"not a step's key: {text!r:.80}")
    found = [step for step in engine.store.steps.all() if step.key.startswith(text)]
    if not found:
        raise NotFound(f"no such step: {text:.80}", hint="see `skerry build --list-steps`")
    if len(found) > 1:
        raise InvalidInput(f"{text:.80} means {len(found)} steps")
    return found[0]


def state_of(engine: Engine, step: Step) -> State:
    """The state after a recorded step."""
    for diff_id in step.chain:
        if not engine.store.layers.has(diff_id):
            raise NotFound(f"the layers below step {step.key[:12]} were removed meanwhile")
    config = {**step.config, "Entrypoint": None, "Cmd": None}
    made = timestamp(step.created_at)
    blobs = _named(engine, step.chain)
    return State(step.chain, config, (), architecture(), created=made, blobs=blobs)


def _named(engine: Engine, chain: tuple[str, ...]) -> dict[str, Descriptor]:
    """What images call their layers: one that was packed elsewhere cannot be packed again to the
    same bytes."""
    images = engine.store.images
    found: dict[str, Descriptor] = {}
    for image in images.list():
        if not set(chain).isdisjoint(image.layers):
            found |= dict(zip(image.layers, layers_of(images, image), strict=True))
    return found


async def open_shell(
    engine: Engine, state: State, extra: dict[str, Any], *, environment: list[str]
) -> Container:
    """A container that waits to be started, with a terminal; it and its image go at its end."""
    import asyncio

    config = {key: value for key, value in state.config.items() if key != "Healthcheck"}
    config["Labels"] = {LABEL: "1"}
    image = await asyncio.to_thread(make_image, engine.store, state._replace(config=config))
    wanted = {
        "Image": image.id,
        "Cmd": list(state.config.get("Shell") or _SHELLS[-1:])[:1],
        "Entrypoint": [],
        "Env": environment,
        "Tty": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Labels": {LABEL: "1"},
    }
    host = {"AutoRemove": True, **extra}
    container, _ = await engine.containers.create(wanted, host)
    return container


def failed_state(failed: Failed) -> State:
    """What the failed step's program had left when it ended."""
    config = {**failed.state.config, "Entrypoint": None, "Cmd": None}
    return failed.state._replace(layers=failed.layers, config=config)
