"""Where a stage begins: an image of the store, pulled when it is missing or when that is asked."""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, cast

from skerry.base.architectures import architecture
from skerry.base.errors import InvalidInput, NotFound
from skerry.base.oci_image import Descriptor, ImageConfig, Platform
from skerry.base.platforms import suits
from skerry.base.references import parse_reference
from skerry.build.events import Event
from skerry.build.state import State
from skerry.engine.engine import Engine
from skerry.engine.transfer import parse_platform
from skerry.registry.auth import Credential
from skerry.store.commit import layers_of
from skerry.store.image import Image

CredentialOf = Callable[[str], Credential | None]
_ID: Final = re.compile(r"(sha256:)?[0-9a-f]{12,64}")


def local_name(base: str) -> str:
    """What a base is looked up by here. The beginning of an id is one only when it is as long as
    they are shown: `FROM c` means a repository."""
    return base if _ID.fullmatch(base) else str(parse_reference(base))


class Bases:
    """The images that one build starts from; each is looked up once."""

    def __init__(
        self,
        engine: Engine,
        *,
        pull: bool,
        platform: str,
        credential: CredentialOf,
        tell: Callable[[Event], None],
    ) -> None:
        self._engine = engine
        self._pull = pull
        self._platform = platform
        self._credential = credential
        self._tell = tell
        self._found: dict[tuple[str, str], asyncio.Future[State]] = {}

    async def state(self, name: str, platform: str = "") -> State:
        """The state that an image stands for. Errors as a pull's."""
        key = (name, platform or self._platform)
        known = self._found.get(key)
        if known is None:
            known = self._found[key] = asyncio.ensure_future(self._look(*key))
        return await asyncio.shield(known)

    async def close(self) -> None:
        """End what is still under way."""
        waiting = [each for each in self._found.values() if not each.done()]
        for each in waiting:
            each.cancel()
        await asyncio.gather(*self._found.values(), return_exceptions=True)

    async def _look(self, name: str, platform: str) -> State:
        wanted = parse_platform(platform)
        image = None if self._pull else self._local(name, wanted)
        if image is None:
            await self._fetch(name, platform)
            image = self._local(name, wanted)
        if image is None:
            have = self._engine.images.get(local_name(name))
            raise NotFound(
                f"image {name} is for {have.os}/{have.architecture}, not for {platform}",
                hint="ask for another --platform, or pull the image for this one",
            )
        return self._state(image)

    def _local(self, name: str, wanted: Platform | None) -> Image | None:
        try:
            image = self._engine.images.get(local_name(name))
        except NotFound:
            return None
        if wanted is None:
            return image
        has = Platform(image.architecture, image.os, variant=image.variant)
        return image if suits(has, wanted) else None

    async def _fetch(self, name: str, platform: str) -> None:
        reference = parse_reference(name)
        lines = self._engine.transfer.pull(
            str(reference),
            platform=platform,
            credential=self._credential(reference.registry),
        )
        async with aclosing(cast(Any, lines)) as stream:
            async for message in stream:
                self._tell({"kind": "pull", "image": name, "message": message})

    def _state(self, image: Image) -> State:
        images = self._engine.store.images
        descriptors = layers_of(images, image)
        # Kept by the build's lease until its own image is recorded.
        for diff_id in image.layers:
            self._engine.store.layers.has(diff_id)
        for descriptor in descriptors:
            self._engine.store.blobs.has(descriptor.digest)
        return state_of(images.config(image), descriptors)


def state_of(config: ImageConfig, descriptors: Iterable[Descriptor]) -> State:
    """The state that an image stands for, by its configuration and its layers' descriptors."""
    history = tuple(config.history or ())
    layers = tuple(config.rootfs.diff_ids)
    return State(
        layers,
        dict(config.config or {}),
        history,
        config.architecture,
        config.os,
        config.variant,
        config.created,
        dict(zip(layers, descriptors, strict=True)),
        base=len(layers),
        base_steps=len(history),
    )


def empty(platform: str = "") -> State:
    """FROM scratch."""
    wanted = parse_platform(platform)
    if wanted is None:
        return State(architecture=architecture(), os="linux")
    return State(architecture=wanted.architecture, os=wanted.os, variant=wanted.variant)


def check_runnable(state: State) -> None:
    """InvalidInput when this machine cannot run the stage's programs."""
    here = architecture()
    if state.architecture in ("", here) or (here, state.architecture) in _ALSO:
        return
    if _registered(state.architecture):
        return
    raise InvalidInput(
        f"cannot run programs for {state.os}/{state.architecture} on this machine (linux/{here})",
        hint="register an emulator with binfmt_misc (with the F flag), or build for "
        f"--platform linux/{here}",
    )


_ALSO = {("amd64", "386"), ("arm64", "arm")}
_MACHINES: Mapping[str, str] = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "386": "i386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "arm": "arm",
}


def _registered(wanted: str) -> bool:
    """Whether binfmt_misc hands such programs to an emulator that was opened beforehand."""
    machine = _MACHINES.get(wanted, wanted)
    try:
        with open(f"/proc/sys/fs/binfmt_misc/qemu-{machine}") as file:
            text = file.read(4096)
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags:")), "")
    return text.startswith("enabled") and "F" in flags
