"""Where machines are kept: folders, disks' layers, records.

Disks are trees of layers. A layer is a qcow2 file that takes the writes of one machine until it is
frozen (by a snapshot or a linked clone); then others stand on it. A layer's record names its
parent and is written before the file; a layer that no machine, snapshot or layer above reaches is
removed by `sweep`, the record last.

    <root>/vms/<machine>/disks/<layer>.qcow2      <run-root>/vms/<machine>/
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from skerry.base.errors import Conflict, NotFound, SystemFault
from skerry.base.settings import Settings
from skerry.engine.network_record import KIND as NETWORK
from skerry.engine.vms.record import KIND, LAYER, Live, Machine, from_plain
from skerry.machine import jail
from skerry.machine.full.disks import Tools
from skerry.machine.full.launching import Places

if TYPE_CHECKING:
    from skerry.store.records import Records

_MAX_CHAIN = 200


class Shelf:
    """All machines by id, and their places."""

    def __init__(self, settings: Settings, records: "Records") -> None:
        self._root = os.path.join(settings.root, "vms")
        self._run = os.path.join(settings.run_root, "vms")
        self._records = records
        self._all: dict[str, Live] = {}
        self._fresh: set[str] = set()
        """Layers and folders that a verb is just making and no record names yet."""

    def __iter__(self) -> Iterator[Live]:
        return iter(sorted(self._all.values(), key=lambda live: live.record.created_at))

    def networks(self) -> dict[str, str]:
        """The engine's bridge networks: name to the bridge."""
        return {
            str(saved.name): str(saved.data["link"])
            for saved in self._records.all(NETWORK)
            if saved.data.get("driver") == "bridge"
        }

    def load(self) -> list[str]:
        """Read the records; complaints about those that cannot be."""
        complaints = []
        for saved in self._records.all(KIND):
            try:
                record = from_plain(saved.data)
            except SystemFault as error:
                complaints.append(error.message)
                continue
            self._all[record.id] = Live(record)
        return complaints

    def get(self, key: str) -> Live:
        """By name, id or the beginning of an id; NotFound, Conflict."""
        for live in self._all.values():
            if key in (live.record.name, live.record.id):
                return live
        found = [live for id_, live in self._all.items() if key and id_.startswith(key)]
        if len(found) > 1:
            raise Conflict(f"several machines' ids begin with {key}")
        if not found:
            raise NotFound(f"no such machine: {key:.100}")
        return found[0]

    def save(self, record: Machine) -> None:
        """Write the record; Conflict when its name belongs to another."""
        self._records.put(KIND, record.id, msgspec.to_builtins(record), record.name)

    def change(self, record: Machine, **fields: Any) -> None:
        """Set fields and write the record; they are as before when it cannot be written."""
        before = {name: getattr(record, name) for name in fields}
        for name, value in fields.items():
            setattr(record, name, value)
        try:
            self.save(record)
        except BaseException:
            for name, value in before.items():
                setattr(record, name, value)
            raise

    def add(self, record: Machine) -> Live:
        """A new machine, saved."""
        self.save(record)
        self._all[record.id] = live = Live(record)
        return live

    def forget(self, live: Live) -> None:
        """Delete the record; its folders are the caller's to sweep."""
        self._records.delete(KIND, live.record.id)
        self._all.pop(live.record.id, None)

    def free_uid(self) -> int:
        """For a new machine, that no machine of this engine has and hardly one of another's; 0 when
        the engine cannot change users."""
        if os.geteuid() != 0:
            return 0
        taken = {live.record.uid for live in self._all.values()}
        while (uid := jail.user_for(os.urandom(8).hex())) in taken:
            continue
        return uid

    def places(self, record: Machine) -> Places:
        """Its folders."""
        return Places(
            os.path.join(self._root, record.folder), os.path.join(self._run, record.folder)
        )

    def tools(self, record: Machine) -> Tools:
        """qemu-img as the machine's user."""
        return Tools(record.uid)

    def make_folders(self, record: Machine) -> Places:
        """Idempotent. Only `q` and `tpm` belong to the machine's user."""
        places = self.places(record)
        folders = (
            (self._root, 0o710),
            (self._run, 0o710),
            (places.state, 0o711),
            (places.disks, 0o711),
            (places.states, 0o700),
            (places.run, 0o711),
            (places.wall, 0o700),
            (places.sockets, 0o700),
        )
        try:
            for path, mode in folders:
                os.makedirs(path, mode=mode, exist_ok=True)
            if record.uid:
                os.chown(places.sockets, record.uid, record.uid)
            if record.hardware.tpm:
                tpm = os.path.join(places.state, "tpm")
                os.makedirs(tpm, mode=0o700, exist_ok=True)
                own = [tpm, *(entry.path for entry in os.scandir(tpm))] if record.uid else []
                for path in own:
                    os.chown(path, record.uid, record.uid, follow_symlinks=False)
        except OSError as error:
            raise SystemFault(f"cannot make {error.filename}: {error.strerror}") from None
        return places

    def new_layer(self, record: Machine, parent: str = "") -> str:
        """The name of a layer of this machine that does not exist yet, recorded."""
        layer = f"{record.folder}/{os.urandom(8).hex()}"
        self._fresh |= {layer, record.folder}
        self._records.put(LAYER, layer, {"version": 1, "parent": parent})
        return layer

    @contextlib.contextmanager
    def making(self, record: Machine) -> Iterator[None]:
        """Around a verb that makes layers: they are safe from `sweep` until it ends."""
        self._fresh.add(record.folder)
        try:
            yield
        finally:
            self._fresh = {each for each in self._fresh if each.partition("/")[0] != record.folder}

    def path(self, layer: str) -> str:
        """The file of a layer."""
        folder, _, name = layer.partition("/")
        return os.path.join(self._root, folder, "disks", f"{name}.qcow2")

    def parent(self, layer: str) -> str:
        """The layer below, "" for none."""
        try:
            return str(self._records.get(LAYER, layer)["parent"])
        except NotFound:
            return ""

    def line(self, layer: str) -> list[str]:
        """The layer and all below it, top-most first."""
        found: list[str] = []
        while layer and len(found) < _MAX_CHAIN:
            found.append(layer)
            layer = self.parent(layer)
        return found

    def chain(self, layer: str) -> list[str]:
        """The files of `line`."""
        return [self.path(each) for each in self.line(layer)]

    def chains(self, layers: Iterable[str]) -> dict[str, list[str]]:
        """By layer."""
        return {layer: self.chain(layer) for layer in layers}

    def check_depth(self, layer: str) -> None:
        """Conflict when nothing more may stand on this layer."""
        if len(self.line(layer)) >= _MAX_CHAIN:
            raise Conflict(
                f"the disk stands on {_MAX_CHAIN} layers already",
                hint="a full clone has a single one: skerry vm clone",
            )

    def sweep(self) -> None:
        """Remove what nobody reaches: layers, and folders of machines that are not there."""
        kept: set[str] = set()
        roots = {layer for layer in self._fresh if "/" in layer}
        for layer in roots.union(*(live.record.layers() for live in self._all.values())):
            while layer and layer not in kept:
                kept.add(layer)
                layer = self.parent(layer)
        for saved in self._records.all(LAYER):
            if saved.id not in kept:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path(saved.id))
                self._records.delete(LAYER, saved.id)
        own = {live.record.folder for live in self._all.values()}
        own |= {name for name in self._fresh if "/" not in name}
        hosts = {layer.partition("/")[0] for layer in kept}
        for name in _names(self._run):
            if name not in own and os.path.isdir(os.path.join(self._run, name)):
                shutil.rmtree(os.path.join(self._run, name), ignore_errors=True)
        for name in _names(self._root):
            if name not in own and not name.startswith("import-"):
                self._sweep_folder(os.path.join(self._root, name), keep_disks=name in hosts)
        for name in own | hosts:
            self._sweep_disks(name, kept)

    def tidy(self) -> None:
        """After a start of the engine: what verbs that were killed have left in the folders."""
        for live in self._all.values():
            places = self.places(live.record)
            wanted = {"disks", "states", "tpm", "console.log", "console.log.1", "qemu.log"}
            wanted |= {"seed.iso", live.record.saved}
            _remove_others(places.state, wanted)
            _remove_others(places.states, {each.id for each in live.record.snapshots})
        for name in _names(self._root):
            if name.startswith("import-"):
                shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)

    def _sweep_folder(self, path: str, *, keep_disks: bool) -> None:
        """A removed machine's folder: others may still stand on its disks."""
        if not keep_disks:
            shutil.rmtree(path, ignore_errors=True)
            return
        _remove_others(path, {"disks"})

    def _sweep_disks(self, folder: str, kept: set[str]) -> None:
        disks = os.path.join(self._root, folder, "disks")
        for name in _names(disks):
            if f"{folder}/{name.removesuffix('.qcow2')}" not in kept:
                os.unlink(os.path.join(disks, name))


def _remove_others(path: str, wanted: set[str]) -> None:
    for name in _names(path):
        if name in wanted:
            continue
        inner = os.path.join(path, name)
        if os.path.isdir(inner) and not os.path.islink(inner):
            shutil.rmtree(inner, ignore_errors=True)
        else:
            os.unlink(inner)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
