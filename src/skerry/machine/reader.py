"""A machine without its container: a clone on a container's disk, to read or write its files.

A process of its own, a lean interpreter (`main`), for as long as the files take: nobody keeps it,
and it dies with the engine. The disk is that of a container that does not run.
"""

import json
import os
import sys
import time
from typing import Any

from skerry.base.errors import GuestFault, KernelFault, MachineFault, SkerryError
from skerry.machine import cabling, orderly, qemu
from skerry.machine.channel import MOST_FROM_GUEST, Line, Message, Sink
from skerry.machine.clone import clone, identity
from skerry.machine.conf import Conf
from skerry.machine.full.confine import die_with_parent
from skerry.machine.packing import Work
from skerry.machine.said import guests_error
from skerry.runtime import wire
from skerry.runtime.loop import Loop

SECONDS = 60.0
_STREAM = 16


def work(conf: Conf, request: dict[str, Any], fd: int) -> None:
    """Clone, mount, carry out `pack` into or `unpack` from `fd`, unmount; raises the error."""
    cabling.enter_network("")
    machine = clone(conf, []).machine
    messages: list[Message] = []
    lost: list[str] = []
    loop = Loop()
    line = Line(loop, machine.agent, messages.append, lost.append, most_message=MOST_FROM_GUEST)

    def hear(seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not messages:
            if lost or time.monotonic() > deadline:
                raise MachineFault(f"the machine that reads a disk: {(lost or ['no answer'])[0]}")
            loop.turn(deadline)
        head = messages.pop(0).head
        if head.get("error") is not None:
            raise guests_error(head["error"])
        return head

    def turn() -> None:
        now = time.monotonic()
        if lost or files.is_late(now):
            reason = lost[0] if lost else "it does not go on with the files"
            raise MachineFault(f"the machine that reads a disk: {reason}")
        loop.turn(now + 1)

    def ask(**words: Any) -> None:
        line.say({**words, "seq": 1})
        hear(SECONDS)

    try:
        ask(op="identity", **identity(""))
        layers = qemu.LAYERS_SERIAL if conf.layers else ""
        ask(op="attach", layers=layers, writable=qemu.WRITABLE_SERIAL)
        os.set_blocking(fd, False)
        end = line.sink(_STREAM, fd) if request["op"] == "pack" else line.source(_STREAM, fd)
        files = Work(end, lambda head: None)
        ask(**request, stream=_STREAM)
        while not messages:
            turn()
        hear(SECONDS)
        while isinstance(end, Sink) and not end.done:
            turn()
        ask(op="detach")
    except BaseException:
        machine.end()
        raise
    if machine.quit():
        orderly.close(conf.writable)


def main() -> None:
    """`[conf, request, parent]` as JSON in the first argument, the stream is descriptor 3; an error
    as JSON on standard output."""
    fields, request, parent = json.loads(sys.argv[1])
    die_with_parent(parent)
    conf = Conf(*fields)
    try:
        work(conf, request, int(sys.argv[2]))
    except (SkerryError, GuestFault, OSError) as error:
        fault = KernelFault("", error.errno or 0) if isinstance(error, OSError) else error
        sys.stdout.write(json.dumps(wire.error_to_wire(fault)))
        sys.exit(1)
