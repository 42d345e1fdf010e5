"""Full machines: `engine.machines` and `Machine`, blocking.

::

    with Engine() as engine:
        machine = engine.machines.create("box", disks=[{"source": "/srv/debian.qcow2"}])
        machine.start()
        before = machine.snapshot("before")
        open("screen.png", "wb").write(machine.screenshot())
        machine.restore(before)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skerry.base.errors import NotModified
from skerry.sdk.attached import Attached
from skerry.sdk.client import Client, query, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Machine:
    """One machine, known by its id."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    def __repr__(self) -> str:
        return f"<Machine {self.id[:12]}>"

    def _path(self, tail: str) -> str:
        return f"/skerry/vms/{quote(self.id)}{tail}"

    def _do(self, verb: str, **parameters: Any) -> None:
        try:
            self._client.post(self._path(f"/{verb}{query(**parameters)}"))
        except NotModified:
            return  # it is in that state already

    def inspect(self) -> dict[str, Any]:
        """Everything about it; `hardware` is what the guest sees."""
        found: dict[str, Any] = self._client.get(self._path("/json"))
        return found

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.inspect()["name"])

    @property
    def status(self) -> str:
        """off, running, paused, saved or aborted."""
        return str(self.inspect()["status"])

    def start(self) -> None:
        """Boot, or go on from the saved state."""
        self._do("start")

    def stop(self, timeout: int = 30, *, force: bool = False) -> None:
        """Press the power button, wait `timeout` seconds, switch off; at once with `force`."""
        self._do("stop", t=timeout, force=True if force else None)

    def reset(self) -> None:
        """Press the reset button."""
        self._do("reset")

    def pause(self) -> None:
        """Hold the processors."""
        self._do("pause")

    def resume(self) -> None:
        """Go on after `pause` or `save`."""
        self._do("resume")

    def save(self) -> None:
        """Write the whole state to the disk and switch off."""
        self._do("save")

    def wait(self) -> dict[str, Any]:
        """Until it does not run: `{"Status": …, "Error": …}`."""
        found: dict[str, Any] = self._client.post(self._path("/wait"))
        return found

    def edit(self, **changes: Any) -> None:
        """Change it; the fields of `skerry.engine.vms.editing.Changes`."""
        self._client.post(self._path("/update"), changes)

    def remove(self, *, force: bool = False) -> None:
        """Remove it with its disks and snapshots."""
        self._client.delete(self._path(query(force=True if force else None)))

    def console(self, scrollback: int = 16384) -> Attached:
        """Join the serial console; iterate for what the guest writes."""
        stream = self._client.hijack(self._path(f"/console{query(scrollback=scrollback)}"))
        return Attached(stream, tty=True)

    def logs(self) -> bytes:
        """What the guest wrote to its serial port, at most the last two MiB."""
        return self._bytes("/logs")

    def screenshot(self) -> bytes:
        """The screen as a PNG."""
        return self._bytes("/screenshot")

    def _bytes(self, tail: str) -> bytes:
        response = self._client.open("GET", self._path(tail))
        try:
            return response.read()
        finally:
            response.connection.close()

    def send_keys(self, *chords: str, text: str = "") -> None:
        """Press keys by name (`"ctrl-alt-delete"`), then type a text."""
        self._client.post(self._path("/keys"), {"keys": list(chords), "text": text})

    def display(self) -> dict[str, Any]:
        """Where VNC clients find the screen."""
        found: dict[str, Any] = self._client.get(self._path("/display"))
        return found

    def stats(self) -> dict[str, Any]:
        """Counters since the start."""
        found: dict[str, Any] = self._client.get(self._path("/stats"))
        return found

    def addresses(self) -> list[dict[str, Any]]:
        """Of each network card what is known."""
        found: list[dict[str, Any]] = self._client.get(self._path("/addresses"))
        return found

    def snapshot(self, name: str = "", *, comment: str = "", disk_only: bool = False) -> str:
        """Make a snapshot; its name."""
        body = {"name": name, "comment": comment, "disk_only": disk_only}
        return str(self._client.post(self._path("/snapshots"), body)["Name"])

    def snapshots(self) -> list[dict[str, Any]]:
        """All, parents before children."""
        found: list[dict[str, Any]] = self._client.get(self._path("/snapshots"))
        return found

    def restore(self, snapshot: str) -> None:
        """Go back to a snapshot."""
        self._client.post(self._path(f"/snapshots/{quote(snapshot)}/restore"))

    def remove_snapshot(self, snapshot: str) -> None:
        """Forget one; the present stays."""
        self._client.delete(self._path(f"/snapshots/{quote(snapshot)}"))

    def clone(self, name: str = "", *, linked: bool = False, snapshot: str = "") -> Machine:
        """A copy, off; a linked one stands on this one's disks."""
        body = {"linked": linked, "snapshot": snapshot}
        made = self._client.post(self._path(f"/clone{query(name=name)}"), body)
        return Machine(self._client, made["Id"])

    def export(self, form: str = "ova", *, disk: str = "") -> Iterator[bytes]:
        """The machine as an OVA, in pieces; or one of its disks as qcow2, raw, vdi, vhdx, vmdk."""
        tail = query(format=form, disk=disk)
        response = self._client.open("GET", self._path(f"/export{tail}"))

        def stream() -> Iterator[bytes]:
            try:
                yield from response.chunks()
            finally:
                response.connection.close()

        return stream()


class Machines:
    """`engine.machines`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(
        self,
        name: str = "",
        *,
        disks: Sequence[dict[str, Any]] = (),
        cdroms: Sequence[str] = (),
        **hardware: Any,
    ) -> Machine:
        """A machine that is off. `disks` as `{"size": bytes}`, `{"source": path}` or both;
        `hardware`: memory, cpus, firmware, nics, shares, cloud_init, … (see docs/vm.md)."""
        body = {"disks": list(disks), "cdroms": list(cdroms)} | hardware
        made = self._client.post(f"/skerry/vms/create{query(name=name)}", body)
        return Machine(self._client, made["Id"])

    def get(self, key: str) -> Machine:
        """By name, id or its beginning; NotFound."""
        return Machine(self._client, self._client.get(f"/skerry/vms/{quote(key)}/json")["id"])

    def list(self) -> list[Machine]:
        """All, the oldest first."""
        return [Machine(self._client, each["id"]) for each in self._client.get("/skerry/vms/json")]

    def take_in(self, chunks: Iterable[bytes], name: str = "") -> Machine:
        """A machine out of an OVA."""
        response = self._client.open("POST", f"/skerry/vms/import{query(name=name)}", chunks)
        try:
            from skerry.sdk import wire

            return Machine(self._client, wire.loads(response.read())["Id"])
        finally:
            response.connection.close()
