"""The engine's side of templates: which exist, which are being made, which are loaded."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from skerry.base.errors import DigestMismatch, InvalidInput, SkerryError, SystemFault
from skerry.machine import accel, kit, lean, template
from skerry.machine.qemu import Accel
from skerry.machine.shape import Shape

log = logging.getLogger(__name__)

_Key = tuple[Shape, str, tuple[int, int]]
"""With a user's own kernel, and by what it is known again."""


def _stamp(kernel: str) -> tuple[int, int]:
    try:
        status = os.stat(kernel) if kernel else None
    except OSError as error:
        raise InvalidInput(f"kernel {kernel}: {error.strerror}") from None
    return (status.st_size, status.st_mtime_ns) if status else (0, 0)


class Templates:
    """Templates below one folder. Concurrent starts share one making."""

    def __init__(self, root: Path) -> None:
        self._kits = root / "kit"
        self._folder = root / "templates"
        self._making: dict[_Key, asyncio.Task[template.Frozen]] = {}
        self._loaded: dict[_Key, template.Frozen] = {}
        self._accel: Accel | None = None

    @property
    def accel(self) -> Accel:
        """The accelerator; known once a template was asked for."""
        if self._accel is None:
            raise SystemFault("no template was asked for yet")
        return self._accel

    async def get(
        self,
        shape: Shape,
        kernel: str = "",
        filters: Sequence[str] = (),
        rehearsal: Callable[[], template.Rehearsal] | None = None,
    ) -> template.Frozen:
        """The template for a shape, made now if there is none; errors as `open_kit` and `make`.
        `kernel` is the user's own, empty for the distribution's; `filters` are rules for devices
        that others are likely to ask for too, and `rehearsal` gives a run for practice: with both a
        template that is made now saves time."""
        key = (shape, kernel, _stamp(kernel))
        if loaded := self._loaded.get(key):
            return loaded
        making = self._making.get(key)
        if making is None:
            making = asyncio.get_running_loop().create_task(self._get(key, filters, rehearsal))
            self._making[key] = making
            making.add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(making)

    def is_made(self, shape: Shape, kernel: str = "") -> bool:
        """Whether `get` would make nothing. Blocks."""
        digest = kit.find(self._kits, kernel)
        if not digest:
            return False
        key = template.key_of(digest, shape, accel.choose())
        return (self._folder / key / template.MANIFEST).exists()

    async def _get(
        self,
        wanted: _Key,
        filters: Sequence[str],
        rehearsal: Callable[[], template.Rehearsal] | None,
    ) -> template.Frozen:
        shape, kernel, _ = wanted
        self._accel = await asyncio.to_thread(accel.choose)
        found = await asyncio.to_thread(kit.open_kit, self._kits, kernel)
        try:
            key = template.key_of(found.digest, shape, self._accel)
            folder = self._folder / key
            for _ in range(2):
                if not (folder / template.MANIFEST).exists():
                    await self._make_rehearsed(found, shape, folder, filters, rehearsal)
                try:
                    loaded = await asyncio.to_thread(
                        template.load, str(folder), key, found.contents
                    )
                    break
                except (DigestMismatch, ValueError, OSError):
                    # Changed or cut short: a template can always be made again.
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            else:
                raise SystemFault(f"the template {folder} cannot be loaded")
        finally:
            found.close()
        self._loaded[wanted] = loaded
        return loaded

    async def _make_rehearsed(
        self,
        found: kit.Kit,
        shape: Shape,
        folder: Path,
        filters: Sequence[str],
        rehearsal: Callable[[], template.Rehearsal] | None,
    ) -> None:
        """Where a rehearsal fails, without one: it only saves time."""
        if rehearsal is not None:
            try:
                practice = await asyncio.to_thread(rehearsal)
                await self._make(found, shape, folder, filters, practice)
                return
            except SkerryError as error:
                log.warning("a template is made without a rehearsal: %s", error)
        await self._make(found, shape, folder, filters, None)

    async def _make(
        self,
        found: kit.Kit,
        shape: Shape,
        folder: Path,
        filters: Sequence[str],
        rehearsal: template.Rehearsal | None,
    ) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        wanted = template.Wanted(
            *(str(folder), found.kernel, found.initramfs, found.late_modules, shape, self.accel),
            list(filters),
            rehearsal,
        )
        argument = json.dumps({**wanted._asdict(), "parent": os.getpid()})
        if len(self._making) == 1:
            self._remove_halves()  # Of makers that were killed; one that lives is in `_making`.
        await lean.run("template", argument, found.kernel, found.initramfs)

    def _remove_halves(self) -> None:
        for half in self._folder.glob("*.*"):
            shutil.rmtree(half, ignore_errors=True)

    def unused(self, keys: set[str]) -> list[Path]:
        """The templates other than `keys`, and what was left half made; none while one is made."""
        if self._making:
            return []
        return [path for path in self._folder.glob("*") if path.name not in keys]

    def kit_contents(self) -> str:
        """What is in the distribution's kit, made now if there is none; blocks."""
        with contextlib.closing(kit.open_kit(self._kits)) as found:
            return found.contents

    def unused_kits(self) -> list[Path]:
        """See `kit.unused`."""
        return [] if self._making else kit.unused(self._kits)

    def forget(self, keys: set[str]) -> None:
        """Let go of templates whose files go; machines that run on them keep the memory."""
        for name, loaded in list(self._loaded.items()):
            if loaded.key in keys:
                os.close(loaded.ram)
                del self._loaded[name]

    def close(self) -> None:
        """Let go of the memory; running machines keep theirs."""
        for making in self._making.values():
            making.cancel()
        for loaded in self._loaded.values():
            os.close(loaded.ram)
        self._loaded.clear()
