"""Processors and memory that a running machine gets beside what it was made with."""

import socket
import time

from skerry.base.errors import Conflict, GuestFault, MachineFault, SkerryError
from skerry.base.light import Any
from skerry.machine import room, said
from skerry.machine.qmp import Monitor
from skerry.runtime import wire

LOOK_SECONDS = 0.02
"""Between two looks at how much memory a guest has taken."""


class Size:
    """How large one machine is."""

    def __init__(self, monitor: Monitor, cpus: int, more: int) -> None:
        """`more` is the file of memory that was plugged in, or -1."""
        self._monitor = monitor
        self.cpus = cpus
        self.more = more
        self._growing: tuple[float, int, socket.socket, int] | None = None
        """Until when the guest may take how much more memory, and who asked for it."""

    @property
    def is_changing(self) -> bool:
        """Whether the guest is taking memory."""
        return self._growing is not None

    def plug_processors(self, count: int) -> None:
        """Have so many, if there are fewer; they are never taken out."""
        monitor = self._monitor
        places = monitor.execute("query-hotpluggable-cpus")
        free = [each for each in places if "qom-path" not in each]
        free.sort(key=lambda each: sorted(each["props"].items()))
        for place in free[: max(0, count - self.cpus)]:
            where = {key.replace("-", "_"): value for key, value in place["props"].items()}
            monitor.execute("device_add", driver=place["type"], id=f"cpu{self.cpus}", **where)
            self.cpus += 1

    def resize_memory(self, sock: socket.socket, seq: int, size: int) -> None:
        """Have the guest get so much beside its own memory; answered when it has it, and at once
        when it is to give some back."""
        if self._growing is not None:
            raise Conflict("the machine's memory is being changed")
        monitor = self._monitor
        if self.more < 0 and size:
            self.more = room.plug(monitor)
        if self.more >= 0:
            room.ask(monitor, size)
            if size > room.taken(monitor):
                self._growing = time.monotonic() + room.SECONDS, size, sock, seq
                return
        said.say(sock, {"reply": seq})

    def look(self) -> None:
        """At how much the guest has taken; answer when it is enough, or when it takes no more."""
        if self._growing is None:
            return
        due, size, sock, seq = self._growing
        answer: dict[str, Any] = {"reply": seq}
        try:
            taken = room.taken(self._monitor)
            if taken < size:
                if time.monotonic() < due:
                    return
                room.ask(self._monitor, taken)
                raise MachineFault("the guest's kernel does not take more memory")
        except (SkerryError, GuestFault) as error:
            answer["error"] = wire.error_to_wire(error)
        self._growing = None
        said.say(sock, answer)
