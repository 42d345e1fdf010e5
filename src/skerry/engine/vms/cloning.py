"""Copies of machines: full ones, and linked ones that stand on the original's disks."""

import asyncio
import os
import uuid
from typing import Any

import msgspec

from skerry.base.errors import Conflict
from skerry.engine.vms.creation import Creation, must_be_off, new_mac, write_file
from skerry.engine.vms.life import Life
from skerry.engine.vms.record import Live, Machine
from skerry.engine.vms.shelf import Shelf
from skerry.engine.vms.snapshots import Snapshots, moved
from skerry.machine.full import seed
from skerry.machine.full.disks import Tools
from skerry.machine.full.spec import Hardware


class Cloning:
    """The service's half that copies. Callers hold the original's lock."""

    def __init__(self, shelf: Shelf, life: Life, creation: Creation, snapshots: Snapshots) -> None:
        self._shelf = shelf
        self._life = life
        self._creation = creation
        self._snapshots = snapshots

    async def clone(
        self, live: Live, name: str, *, linked: bool = False, snapshot: str = ""
    ) -> Machine:
        """A machine with the same disks, off. It has its own id, MAC addresses and host name.

        Forwarded ports are kept: which of two machines has one is settled when they start.

        From `snapshot`, else from the present, for which the original has to be off.
        """
        source = live.record
        if snapshot:
            hardware = self._snapshots.find(live, snapshot).hardware
        else:
            must_be_off(live, "a clone of its present state")
            hardware = source.hardware
        record = self._creation.begin(name)
        record.seed, record.vnc_password = source.seed, source.vnc_password
        with self._shelf.making(record), self._shelf.making(source):
            try:
                record.hardware = fresh_identity(hardware, record.hardware.uuid)
                self._shelf.make_folders(record)
                if linked:
                    await self._link(source, record, hardware, present=not snapshot)
                else:
                    await self._copy(source, record, hardware)
                await self.new_seed(record)
                made = self._shelf.add(record)
            except BaseException:
                self._creation.drop(record)
                raise
        self._life.tell(made, "create", original=source.name)
        return record

    async def _link(
        self, source: Machine, record: Machine, hardware: Hardware, *, present: bool
    ) -> None:
        if present:
            source.hardware = await self._snapshots.above(source, hardware)
            self._shelf.save(source)
        self._snapshots.freeze(hardware)
        above = await self._snapshots.above(record, hardware)
        record.hardware = moved(
            record.hardware, dict(zip(hardware.layers(), above.layers(), strict=True))
        )

    async def _copy(self, source: Machine, record: Machine, hardware: Hardware) -> None:
        # As the original's user, which alone may read its disks; the copy changes hands.
        tools = Tools(source.uid)
        fresh = {}
        for layer in hardware.layers():
            fresh[layer] = self._shelf.new_layer(record)
            path = self._shelf.path(fresh[layer])
            await tools.flatten(self._shelf.chain(layer), path)
            if record.uid:
                os.chown(path, record.uid, record.uid)
        record.hardware = moved(record.hardware, fresh)

    async def new_seed(self, record: Machine) -> None:
        """cloud-init's disc with the machine's own name and id: it takes the clone for new."""
        if record.seed is None:
            return
        path = os.path.join(self._shelf.places(record).state, "seed.iso")
        settings = msgspec.structs.replace(record.seed, hostname="", meta_data="")
        macs = [nic.mac for nic in record.hardware.nics]
        image = await asyncio.to_thread(seed.image, settings, record.name, record.id, macs)
        write_file(path, image)
        drives = tuple(
            msgspec.structs.replace(drive, path=path) if drive.path.endswith("/seed.iso") else drive
            for drive in record.hardware.cdroms
        )
        record.hardware = msgspec.structs.replace(record.hardware, cdroms=drives)


def fresh_identity(hardware: Hardware, identity: str = "") -> Hardware:
    """Another UUID, other MAC addresses."""
    nics = tuple(msgspec.structs.replace(nic, mac=new_mac()) for nic in hardware.nics)
    changes: dict[str, Any] = {"uuid": identity or str(uuid.uuid4()), "nics": nics}
    if hardware.tpm:
        raise Conflict("a machine with a TPM cannot be cloned: its secrets are its own")
    return msgspec.structs.replace(hardware, **changes)
