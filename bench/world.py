"""What the benchmarks share: the engines, started when first asked for, and runc's bundle."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bench import images
from bench.daemons import (
    BUSYBOX_IMAGE,
    Dockerd,
    MissingPiece,
    Skerry,
    remove_folder,
    short_folder,
)
from bench.measure import say
from bench.wire import Connection, true_container

T = TypeVar("T")


class World:
    """Starts lazily, remembers what would not start, and takes all down on exit."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._skerry: Skerry | MissingPiece | None = None
        self._dockerd: Dockerd | MissingPiece | None = None
        self._lasting: dict[str, Any] = {}
        self._ends = contextlib.ExitStack()
        self.home = short_folder("sb-")
        self._stack.callback(remove_folder, self.home)
        self.rootfs = images.make_rootfs(self.home / "rootfs")

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *exc: object) -> None:
        with self._stack:
            self.clear()

    def lasting(self, make: Callable[["World"], contextlib.AbstractContextManager[T]]) -> T:
        """What `make` gives, entered once for all rows that ask for it, until `clear`."""
        name = make.__qualname__
        if name not in self._lasting:
            self._lasting[name] = self._ends.enter_context(make(self))
        made: T = self._lasting[name]
        return made

    def clear(self) -> None:
        """Leave what lasted."""
        self._ends.close()
        self._lasting.clear()

    @property
    def skerry(self) -> Skerry:
        """Our engine, warm, with busybox; MissingPiece when it does not start."""
        if self._skerry is None:
            say("starting skerry's engine")
            try:
                self._skerry = self._stack.enter_context(Skerry())
            except MissingPiece as missing:
                self._skerry = missing
        if isinstance(self._skerry, MissingPiece):
            raise MissingPiece(str(self._skerry))
        return self._skerry

    @property
    def dockerd(self) -> Dockerd:
        """Debian's dockerd with busybox; MissingPiece when it does not start."""
        if self._dockerd is None:
            say("starting dockerd")
            tar = self.home / "busybox.tar"
            tar.write_bytes(images.tar_of(self.rootfs))
            try:
                self._dockerd = self._stack.enter_context(Dockerd(busybox=tar))
            except MissingPiece as missing:
                self._dockerd = missing
        if isinstance(self._dockerd, MissingPiece):
            raise MissingPiece(str(self._dockerd))
        return self._dockerd

    def runc(self) -> str:
        """The path of runc."""
        found = shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if found is None:
            raise MissingPiece("runc is not installed")
        return found

    def bundle(self) -> Path:
        """A bundle of `true` that any OCI runtime can run, made once.

        It is what our engine plans for `run --network none busybox true` (capabilities, seccomp,
        masks, mounts, limits), over a plain directory as root; a spec of `runc spec`'s kind while
        the engine is missing.
        """
        folder = self.home / "bundle"
        if not folder.exists():
            images.make_bundle(folder, ["/bin/true"], self.rootfs)
            with contextlib.suppress(MissingPiece, OSError, ValueError, KeyError):
                spec = self._engine_spec()
                (folder / "config.json").write_text(json.dumps(spec))
        return folder

    def _engine_spec(self) -> dict[str, Any]:
        with Connection(self.skerry.socket) as api:
            made = api.call("POST", "/containers/create", true_container())["Id"]
            api.call("POST", f"/containers/{made}/start")
            api.call("POST", f"/containers/{made}/wait")
        state = self.skerry.root / "containers" / made
        spec: dict[str, Any] = json.loads((state / "config.json").read_text())
        spec["process"]["args"] = ["/bin/true"]
        spec["root"] = {"path": str(self.rootfs), "readonly": False}
        spec.pop("hooks", None)
        # Each run makes and removes its own group, as `runc run` does by default.
        spec["linux"].pop("cgroupsPath", None)
        return spec


def image() -> str:
    """The image that every engine has."""
    return BUSYBOX_IMAGE
