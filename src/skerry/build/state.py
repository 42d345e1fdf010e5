"""What a stage is at one point: its layers, its configuration, how it came about. Plain data."""

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple

from skerry.base.oci_image import Descriptor, History

COMMENT = "buildkit.dockerfile.v0"
"""What BuildKit writes beside each step of the history; tools know Dockerfile steps by it."""


class State(NamedTuple):
    """A stage between two steps."""

    layers: tuple[str, ...] = ()
    """Diff ids, bottom-most first."""
    config: dict[str, Any] = {}  # noqa: RUF012 - never written: every change makes a new one
    """Docker's Config object."""
    history: tuple[History, ...] = ()
    architecture: str = ""
    os: str = "linux"
    variant: str = ""
    created: str = ""
    """RFC 3339: of the last step that changed something."""
    blobs: dict[str, Descriptor] = {}  # noqa: RUF012 - as `config`
    """What the base image calls its layers."""
    author: str = ""
    base: int = 0
    """How many of the layers are the base image's."""
    base_steps: int = 0
    """The same of the history."""

    @property
    def chain(self) -> str:
        """The layers' identity (image-spec config.md, ChainID); empty for none."""
        return _chain(self.layers)

    def step(self, layer: str, text: str, created: str) -> "State":
        """After a step that may have changed files; `layer` is empty when it did not."""
        line = History(created, text, "", COMMENT, not layer)
        layers = (*self.layers, layer) if layer else self.layers
        return self._replace(layers=layers, history=(*self.history, line), created=created)

    def configured(self, config: dict[str, Any], text: str) -> "State":
        """After an instruction that concerns the configuration only."""
        line = History(self.created, text, "", COMMENT, True)
        return self._replace(config=config, history=(*self.history, line))


@lru_cache(4096)
def _chain(layers: tuple[str, ...]) -> str:
    if len(layers) < 2:
        return "".join(layers)
    text = f"{_chain(layers[:-1])} {layers[-1]}"
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def variables(config: dict[str, Any]) -> dict[str, str]:
    """The configuration's environment."""
    found = {}
    for entry in config.get("Env") or ():
        name, _, value = entry.partition("=")
        found[name] = value
    return found


def with_variables(config: dict[str, Any], more: dict[str, str]) -> dict[str, Any]:
    """The configuration with these set; a known one keeps its place."""
    merged = {**variables(config), **more}
    return {**config, "Env": [f"{name}={value}" for name, value in merged.items()]}


def fingerprint(*parts: str) -> str:
    """A digest of parts, none of which can pass for another."""
    seen = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        seen.update(b"%d:" % len(data))
        seen.update(data)
    return seen.hexdigest()
