"""QEMU's monitor (QMP): one connection, commands with time limits, errors as our types.

QEMU may have been taken over by its guest, so what it says is bounded: the library limits a
message, `execute` the time, and events are taken off its queue as they come.

Source: docs/interop/qmp-spec.txt, qapi/*.json.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

from qemu.qmp import ExecInterruptedError, ExecuteError, QMPClient, QMPError

from skerry.base.errors import Conflict, SystemFault, Unavailable

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

CONNECT_SECONDS = 20.0
SECONDS = 20.0
Event = Callable[[str, dict[str, Any]], None]


class Monitor:
    """Use `connect`; `close` leaves QEMU running."""

    def __init__(self, client: QMPClient, on_event: Event) -> None:
        self._client = client
        self._lock = asyncio.Lock()
        self._reader = asyncio.get_running_loop().create_task(self._read(on_event))

    @classmethod
    async def connect(cls, path: str, on_event: Event) -> "Monitor":
        """Join the monitor at a unix socket; Unavailable when nobody answers in time."""
        client = QMPClient("skerry")
        # A unix socket's name is short; the folder's descriptor takes the length out of it.
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
        try:
            await asyncio.wait_for(
                client.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}"),
                CONNECT_SECONDS,
            )
        except (QMPError, OSError, TimeoutError) as error:
            with contextlib.suppress(Exception):
                await client.disconnect()
            raise Unavailable(f"QEMU's monitor at {path} does not answer: {error}") from None
        finally:
            os.close(directory)
        return cls(client, on_event)

    async def _read(self, on_event: Event) -> None:
        async for message in self._client.events:
            name, data = message.get("event"), message.get("data")
            on_event(str(name), data if isinstance(data, dict) else {})

    async def execute(self, command: str, *, timeout: float = SECONDS, **arguments: Any) -> Any:
        """One command; `_` in arguments' names stands for `-`. Conflict when QEMU refuses."""
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            async with self._lock:
                return await asyncio.wait_for(self._client.execute(command, given), timeout)
        except ExecuteError as error:
            raise Conflict(f"QEMU refused {command}: {error}") from None
        except TimeoutError:
            raise Unavailable(f"QEMU did not answer {command} within {timeout:g} s") from None
        except (QMPError, ExecInterruptedError, OSError) as error:
            raise Unavailable(f"QEMU went away during {command}: {error}") from None

    async def human(self, line: str) -> str:
        """A command of the human monitor, for what QMP has no word for."""
        answer = await self.execute("human-monitor-command", command_line=line)
        return str(answer)[:65536]

    async def send_fd(self, name: str, fd: int) -> None:
        """Give QEMU a descriptor that later commands call `name`."""
        async with self._lock:
            try:
                self._client.send_fd_scm(fd)
                await asyncio.wait_for(self._client.execute("getfd", {"fdname": name}), SECONDS)
            except (QMPError, OSError, TimeoutError) as error:
                raise SystemFault(f"cannot give QEMU a descriptor: {error}") from None

    async def add_fd(self, fd: int, owner: str) -> int:
        """Give QEMU a descriptor; the number of its set, `/dev/fdset/N`. See `remove_fds`."""
        async with self._lock:
            try:
                self._client.send_fd_scm(fd)
                answer = await asyncio.wait_for(
                    self._client.execute("add-fd", {"opaque": owner}), SECONDS
                )
            except (QMPError, OSError, TimeoutError) as error:
                raise SystemFault(f"cannot give QEMU a descriptor: {error}") from None
        return int(answer["fdset-id"])  # type: ignore[index]

    async def remove_fds(self, owner: str) -> None:
        """Let QEMU close the descriptors that it was given for `owner`, once they are not used."""
        for each in await self.execute("query-fdsets"):
            if any(fd.get("opaque") == owner for fd in each.get("fds", ())):
                await self.execute("remove-fd", fdset_id=each["fdset-id"])

    async def status(self) -> str:
        """RunState: running, paused, inmigrate, postmigrate, shutdown, …"""
        answer = await self.execute("query-status")
        return str(answer.get("status"))

    async def close(self) -> None:
        """Leave. Idempotent."""
        self._reader.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.disconnect(), 5)
        await asyncio.gather(self._reader, return_exceptions=True)
