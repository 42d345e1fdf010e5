"""Looking at machines and typing to them: serial console, screen, keys, logs, addresses."""

import asyncio
import contextlib
import os
import time
from typing import Any, NamedTuple

from skerry.base.errors import Conflict, LimitExceeded, SystemFault, Unavailable
from skerry.engine.vms import cables
from skerry.engine.vms.life import Life
from skerry.engine.vms.record import Live
from skerry.engine.vms.shelf import Shelf
from skerry.machine.full import keys, serial
from skerry.machine.full.serial import LOG_BYTES

MAX_PICTURE = 64 << 20
SCROLLBACK = 16384
"""Bytes of the past that a console shows when it is joined."""
_KEY_SECONDS = 0.03


class ConsoleStream:
    """A Stream (`engine.isolation`) to a keeper's console."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """What the guest wrote; empty at the end."""
        with contextlib.suppress(OSError):
            return await self._reader.read(65536)
        return b""

    async def write(self, data: bytes) -> None:
        """Type."""
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def close_stdin(self) -> None:
        """A serial line has no end of input."""

    async def close(self) -> None:
        """Leave."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Reading(NamedTuple):
    """Counters of a machine at a moment. Times in ns, memory and disks in bytes."""

    at: int
    cpu: int
    memory: int
    memory_limit: int
    cpus: int
    disks: dict[str, dict[str, int]]


class Consoles:
    """The service's half that looks."""

    def __init__(self, shelf: Shelf, life: Life) -> None:
        self._shelf = shelf
        self._life = life

    async def attach(self, live: Live, scrollback: int = SCROLLBACK) -> ConsoleStream:
        """Join the serial console. Conflict when the machine does not run."""
        self._life.running(live)
        run = self._shelf.places(live.record).run
        directory = os.open(run, os.O_PATH | os.O_DIRECTORY)
        try:
            reader, writer = await asyncio.open_unix_connection(
                f"/proc/self/fd/{directory}/{serial.CONSOLE}"
            )
        except OSError as error:
            raise Unavailable(f"the machine's keeper does not answer: {error.strerror}") from None
        finally:
            os.close(directory)
        writer.write(b"%d\n" % max(0, min(scrollback, 2 * LOG_BYTES)))
        return ConsoleStream(reader, writer)

    def log(self, live: Live, count: int = 2 * LOG_BYTES) -> bytes:
        """The last bytes that the guest wrote to its serial port."""
        return serial.tail(self._shelf.places(live.record).console_log, count)

    def complaints(self, live: Live) -> bytes:
        """What QEMU wrote to its standard error."""
        return serial.tail(self._shelf.places(live.record).qemu_log, LOG_BYTES)

    def display(self, live: Live) -> dict[str, Any]:
        """Where the screen can be seen by a VNC client."""
        self._life.running(live)
        hardware = live.record.hardware
        if hardware.video == "none":
            raise Conflict(f"machine {live.record.name} has no screen")
        if hardware.vnc == "unix":
            path = os.path.join(self._shelf.places(live.record).sockets, "vnc.sock")
            return {"type": "vnc", "address": f"unix:{path}", "password": False}
        host, _, number = hardware.vnc.rpartition(":")
        return {
            "type": "vnc",
            "address": f"{host}:{5900 + int(number)}",
            "password": bool(live.record.vnc_password),
        }

    async def stats(self, live: Live) -> Reading:
        """What the machine has used since its start."""
        monitor = self._life.running(live)
        group = self._life.group(live.record)
        counters = await asyncio.to_thread(group.stats) if group else {}
        disks = {}
        for each in await monitor.execute("query-blockstats"):
            if each.get("qdev") and isinstance(each.get("stats"), dict):
                found = each["stats"]
                disks[_device(str(each["qdev"]))] = {
                    "read": int(found.get("rd_bytes", 0)),
                    "written": int(found.get("wr_bytes", 0)),
                }
        return Reading(
            at=time.time_ns(),
            cpu=int(counters.get("cpu", {}).get("usage_ns", 0)),
            memory=int(counters.get("memory", {}).get("usage", 0)),
            memory_limit=live.record.hardware.memory,
            cpus=live.record.hardware.cpus,
            disks=disks,
        )

    async def addresses(self, live: Live) -> list[dict[str, Any]]:
        """Of each network card what is known; see `cables.addresses`."""
        monitor = self._life.running(live)
        usernet = ""
        if any(nic.kind == "nat" for nic in live.record.hardware.nics):
            usernet = await monitor.human("info usernet")
        try:
            with open("/proc/net/arp", encoding="ascii", errors="replace") as file:
                arp = file.read(1 << 20)
        except OSError:
            arp = ""
        return cables.addresses(live.record.hardware, usernet, arp)

    async def screenshot(self, live: Live) -> bytes:
        """The screen as a PNG."""
        monitor = self._life.running(live)
        if live.record.hardware.video == "none":
            raise Conflict(f"machine {live.record.name} has no screen")
        places = self._shelf.places(live.record)
        from skerry.machine.full.launching import INSIDE

        name = f"screen-{os.urandom(4).hex()}.png"
        inside = INSIDE if live.record.uid else places.sockets
        path = os.path.join(places.sockets, name)
        try:
            await monitor.execute("screendump", filename=os.path.join(inside, name), format="png")
            # The folder is QEMU's: whatever lies there now may be a link to elsewhere.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                data = file.read(MAX_PICTURE + 1)
        except OSError as error:
            raise SystemFault(f"cannot read the screenshot: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
        if len(data) > MAX_PICTURE:
            raise LimitExceeded(f"the screenshot is larger than {MAX_PICTURE} bytes")
        return data

    async def send_keys(self, live: Live, chords: list[str], text: str = "") -> int:
        """Press keys one after the other; how many strokes. InvalidInput."""
        monitor = self._life.running(live)
        strokes = [keys.chord(each) for each in chords] + keys.typed(text)
        for stroke in strokes:
            await monitor.execute(
                "send-key", keys=[{"type": "qcode", "data": name} for name in stroke], hold_time=10
            )
            # Guests poll a keyboard that has a small buffer.
            await asyncio.sleep(_KEY_SECONDS)
        return len(strokes)


def _device(path: str) -> str:
    """A disk's name out of the path of its device, `/machine/peripheral/disk0/virtio-backend`."""
    parts = [part for part in path.split("/") if part]
    return parts[2] if parts[:2] == ["machine", "peripheral"] and len(parts) > 2 else path
