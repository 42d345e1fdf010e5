"""A hostile guest at the other end of the agent's line: the warden goes on, keeps within bounds,
and whoever asked hears of the guest's fault."""

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base import errors
from skerry.base.errors import Conflict, GuestFault, MachineFault, SkerryError, SystemFault
from skerry.machine import asking, clients, packing, pausing
from skerry.machine import warden as module
from skerry.machine.channel import (
    ACK,
    CHUNK,
    DATA,
    END,
    EOF,
    HEADER,
    MOST_FROM_GUEST,
    PART,
    WINDOW,
    Decoder,
    Frame,
    pack,
    pack_message,
    parse_message,
)
from skerry.machine.clone import Cloned
from skerry.machine.conf import Conf
from skerry.machine.guest.identity import RENEWED
from skerry.machine.hypervisor import Hypervisor
from skerry.machine.qmp import Monitor
from skerry.machine.said import guests_error, read_rows
from skerry.machine.snapshots import read_told
from skerry.machine.warden import Warden
from skerry.runtime import rundir, wire


class Guest:
    """What QEMU and its guest are to a warden: a process, a monitor, and the agent's port, played
    by the test. The monitor refuses whatever it is asked."""

    def __init__(self, folder: Path) -> None:
        run = folder / "run"
        run.mkdir()
        for name in ("ram", "state", "disk"):
            (folder / name).touch()
        self.run_dir = str(run)
        self.pid = subprocess.Popen(
            ["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).pid  # fmt: skip
        self.pidfd = os.pidfd_open(self.pid)
        self.port, agent = socket.socketpair()
        self.monitor, monitor = socket.socketpair()
        self.said, stderr = socket.socketpair()
        for sock in (agent, stderr, self.port):
            sock.setblocking(False)
        machine = Hypervisor(
            self.pid, os.dup(self.pidfd), Monitor(monitor), agent.detach(), stderr.detach()
        )
        none: dict[str, Any] = dict.fromkeys(Conf._fields)
        conf = Conf(
            **none
            | {
                "id": "box",
                "run_dir": self.run_dir,
                "ram": str(folder / "ram"),
                "state": str(folder / "state"),
                "writable": str(folder / "disk"),
                "shape": (64 << 20, 1),
                "accel": ("tcg", "qemu64", 0),
                "shares": [],
                "files": {},
                "hostname": "box",
            }
        )
        self.warden = Warden(conf, Cloned(machine, -1, -1, 0), [])
        self.out = os.pipe2(os.O_NONBLOCK)
        self.err = os.pipe2(os.O_NONBLOCK)
        line = self.warden._line
        self.warden._sinks = [line.sink(1, self.out[1]), line.sink(2, self.err[1])]
        self.decoder = Decoder()
        self.frames: deque[Frame] = deque()
        self.ended: list[int] = []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        code = self.warden.run()
        self.warden.close()
        self.ended.append(code)

    def begin(self) -> "Guest":
        """Let the warden live."""
        self.thread.start()
        return self

    def ask(self, **head: Any) -> socket.socket:
        """Ask the warden, as the engine does."""
        sock = rundir.connect(self.run_dir, clients.SOCKET)
        assert sock is not None
        sock.settimeout(120)
        fds = head.pop("fds", ())
        wire.send(sock, {"seq": 5, **head}, b"{}", fds)
        return sock

    def take(self, kind: int = END) -> Frame:
        """The next frame of this kind that the warden sends."""
        while True:
            while self.frames:
                if (frame := self.frames.popleft()).kind == kind:
                    return frame
            self.frames.extend(self.decoder.feed(self._receive()))

    def _receive(self) -> bytes:
        assert select.select([self.port], [], [], 60)[0], "the warden says nothing"
        return self.port.recv(HEADER.size + CHUNK)

    def request(self) -> dict[str, Any]:
        """The next message of the warden."""
        return parse_message(self.take().data).head

    def send(self, data: bytes) -> int:
        """As much as the port takes before the warden has gone."""
        sent = 0
        with contextlib.suppress(OSError):
            while sent < len(data):
                if not select.select([], [self.port], [], 60)[1]:
                    break
                sent += self.port.send(data[sent : sent + (1 << 16)])
        return sent

    def end(self) -> int:
        """The warden's exit code; it must come."""
        self.thread.join(60)
        assert not self.thread.is_alive(), "the warden hangs"
        return self.ended[0]

    def words(self) -> str:
        """Why it has ended."""
        found = rundir.read_json(self.run_dir, module.LAST_WORDS)
        return str(found["error"]) if found else ""

    def close(self) -> None:
        """Whatever is left."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self.thread.is_alive():
            self.thread.join(60)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        for fd in (self.pidfd, self.out[0], self.err[0]):
            os.close(fd)
        for sock in (self.port, self.monitor, self.said):
            sock.close()


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    # The monitor that is played here never quits.
    monkeypatch.setattr(Hypervisor, "quit", partialmethod(Hypervisor.quit, 0.2))
    monkeypatch.setattr(module, "KILL_SECONDS", 0.1)
    monkeypatch.setattr(module, "_DYING_SECONDS", 0.2)
    made = Guest(tmp_path)
    yield made
    made.close()


def fault_of(sock: socket.socket) -> SkerryError | GuestFault:
    """The error that the engine would raise."""
    with sock:
        message = wire.receive(sock)
        assert message is not None
        assert message.head["reply"] == 5
        return wire.error_from_wire(message.head["error"])


BREACHES = {
    "an unknown kind": HEADER.pack(99, 0, 0, 0, 0),
    "a frame of four gigabytes": HEADER.pack(DATA, 0, 0, 1, 2**32 - 1),
    "a message without an end": pack(PART, 0, b"x" * CHUNK) * (MOST_FROM_GUEST // CHUNK + 1),
    "a head longer than its message": pack(END, 0, struct.pack(">I", 2**32 - 1) + b"{}"),
    "a head of nested lists": pack_message({})[:0]
    + pack(END, 0, struct.pack(">I", 30_000) + b"[" * 30_000),
    "output on a stream that nobody opened": pack(DATA, 4000, b"x"),
    "an end that comes twice": pack(EOF, 1) + pack(EOF, 1),
    "output after the end": pack(EOF, 1) + pack(DATA, 1, b"x") + pack(DATA, 1, b"x"),
    "a flood beyond the window": pack(DATA, 1, b"x" * CHUNK) * (4 * WINDOW // CHUNK),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_of_the_protocol_ends_the_machine_and_says_whose_fault(
    guest: Guest, breach: str
) -> None:
    guest.begin()
    with guest.ask(op="status") as asked:
        answer = wire.receive(asked)
        assert answer is not None
        assert answer.head["qemu"] == guest.pid
    guest.send(BREACHES[breach])
    assert guest.end() == module._LOST
    assert guest.words().startswith("the guest's line is lost: ")


def test_half_a_frame_and_then_nothing_keeps_nobody(guest: Guest) -> None:
    guest.begin()
    guest.send(pack(DATA, 1, b"all of it")[:-3])
    for _ in range(3):  # The warden serves others all the while.
        with guest.ask(op="status") as asked:
            assert wire.receive(asked) is not None
    with guest.ask(op="signal", id="main", signal=9):
        assert guest.end() == -signal.SIGKILL


def test_one_byte_at_a_time_is_a_message_like_any_other(guest: Guest) -> None:
    guest.begin()
    asked = guest.ask(op="processes")
    number = guest.request()["seq"]
    for byte in pack_message({"reply": number}, b"[]"):
        guest.send(bytes([byte]))
    with asked:
        answer = wire.receive(asked)
        assert answer is not None
        assert answer.body == b"[]"


def test_a_guest_that_floods_and_never_takes_costs_no_memory(guest: Guest) -> None:
    """Each byte of output is acknowledged; a guest that reads nothing must not make those pile up,
    and gets all of them in one number once it reads."""
    taken = os.open("/dev/null", os.O_WRONLY)
    os.dup2(taken, guest.out[1])
    os.close(taken)
    guest.begin()
    count = 60_000
    one = pack(DATA, 1, b"x")
    assert guest.send(one * count) == count * len(one)
    with guest.ask(op="status") as asked:
        assert wire.receive(asked) is not None
    line = guest.warden._line
    assert line.queued < CHUNK
    assert set(line._owed) == {1}
    paid = 0
    while paid < count:
        paid += struct.unpack(">I", guest.take(ACK).data)[0]
    assert paid == count


def test_answers_to_nothing_and_wrong_numbers_reach_nobody(guest: Guest) -> None:
    guest.begin()
    asked = guest.ask(op="processes")
    number = guest.request()["seq"]
    for wrong in (0, -1, number + 1, 2**80, "1", None, [1], {"a": 1}, True):
        guest.send(pack_message({"reply": wrong, "rows": []}))
        guest.send(pack_message({"event": "worked", "number": wrong}))
    guest.send(pack_message({"event": "exit", "id": "../../etc/passwd\0"}))
    guest.send(pack_message({"event": "exit", "id": ["main"]}))
    guest.send(pack_message({"reply": number}, b'[["0"]]'))
    guest.send(pack_message({"reply": number}, b"again"))
    with asked:
        answer = wire.receive(asked)
        assert answer is not None
        assert answer.body == b'[["0"]]'
    with guest.ask(op="status") as more:
        assert wire.receive(more) is not None


def test_an_answer_that_is_too_long_is_the_guests_fault(guest: Guest) -> None:
    guest.begin()
    asked = guest.ask(op="sync")
    number = guest.request()["seq"]
    guest.send(pack_message({"reply": number, "what": "x" * 60_000}))
    assert isinstance(fault_of(asked), MachineFault)


@pytest.mark.parametrize("count", [1, 3])
def test_death_ends_the_warden_whoever_waits(guest: Guest, count: int) -> None:
    guest.begin()
    waiting = [guest.ask(op="processes") for _ in range(count)]
    for _ in waiting:
        guest.request()
    os.kill(guest.pid, signal.SIGKILL)
    for sock in waiting:
        sock.close()
    assert guest.end() == module._LOST
    assert guest.words().startswith("QEMU has ended")


def test_execs_of_a_guest_that_never_answers_leave_nothing(guest: Guest) -> None:
    guest.begin()
    with guest.ask(op="status") as first:
        wire.receive(first)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        reading, writing = os.pipe()
        with guest.ask(op="exec", id=f"e{number}", terminal=False, fds=(writing, writing)):
            os.close(writing)
            assert guest.request()["op"] == "exec"
        assert guest.request()["op"] == "signal"
        # Nobody has the other end any more: the warden has let go of it.
        assert select.select([reading], [], [], 60)[0]
        assert os.read(reading, 1) == b""
        os.close(reading)
    assert not len(guest.warden._execs)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    with guest.ask(op="signal", id="main", signal=9):
        assert guest.end() == -signal.SIGKILL


def test_questions_that_wait_are_bounded(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_MOST_WAITING", 3)
    guest.begin()
    waiting = [guest.ask(op="processes") for _ in range(3)]
    for _ in waiting:
        guest.request()
    assert isinstance(fault_of(guest.ask(op="processes")), MachineFault)
    reading, writing = os.pipe()
    for asked in ({"op": "pack"}, {"op": "exec", "id": "e", "terminal": False}):
        assert isinstance(fault_of(guest.ask(**asked, fds=(writing,) * 2)), MachineFault)
    os.close(writing)
    assert os.read(reading, 1) == b"", "the warden keeps a refused one's descriptor"
    os.close(reading)
    for sock in waiting:
        sock.close()
    # Those who have left make room again.
    more = guest.ask(op="processes")
    guest.send(pack_message({"reply": guest.request()["seq"]}))
    with more:
        assert wire.receive(more) is not None


def test_who_leaves_while_the_machine_is_saved_has_asked_nothing(guest: Guest) -> None:
    still = type("Still", (), {"step": lambda self: None})
    guest.warden._saver.current = still()
    guest.begin()
    reading, writing = os.pipe()
    with guest.ask(op="exec", id="e", terminal=False, fds=(writing, writing)):
        os.close(writing)
    assert os.read(reading, 1) == b"", "the warden keeps its descriptors"
    os.close(reading)
    guest.warden._saver.current = None
    with guest.ask(op="signal", id="main", signal=9):
        assert guest.request()["op"] == "signal"
        assert guest.end() == -signal.SIGKILL


def test_files_that_stand_still_are_given_up(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WORK_SECONDS", 0.05)
    monkeypatch.setattr(packing, "LOOK_SECONDS", 0.05)
    guest.begin()
    reading, writing = os.pipe()
    asked = guest.ask(op="pack", fds=(writing,))
    os.close(writing)
    stream = guest.request()["stream"]
    guest.send(pack(DATA, stream, b"a beginning"))
    found = fault_of(asked)
    assert isinstance(found, MachineFault)
    assert "does not go on" in found.message
    with open(reading, "rb") as file:  # Whoever reads there hears of the end.
        assert file.read() == b"a beginning"
    guest.send(pack(DATA, stream, b"too late") + pack(EOF, stream))
    with guest.ask(op="status") as more:
        assert wire.receive(more) is not None


def test_a_pause_does_not_wait_for_the_guest(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "PAUSE_SECONDS", 0.05)
    guest.begin()
    asked = guest.ask(op="pause")
    assert b'"stop"' in guest.monitor.recv(4096)
    guest.monitor.send(b'{"return": {}}\n')
    with asked:
        answer = wire.receive(asked)
        assert answer is not None
        assert "error" not in answer.head
    assert isinstance(fault_of(guest.ask(op="processes")), Conflict)


TEXTS = st.text(max_size=6) | st.sampled_from([*vars(errors), "KernelFault", "x" * 5000, "\x1b[2J"])


@given(
    st.none()
    | st.integers()
    | st.dictionaries(
        st.sampled_from(["type", "message", "hint", "action", "errno"]),
        TEXTS | st.integers() | st.none() | st.floats(),
    )
)
def test_no_error_of_a_guest_is_the_engines(value: Any) -> None:
    found = guests_error(value)
    assert not isinstance(found, SystemFault | errors.Unavailable)
    assert len(found.message) <= 1000
    assert (found.message + found.hint).isprintable()


@given(st.binary(max_size=300) | st.none() | st.text())
def test_rows_of_a_guest_are_short_and_printable_or_refused(said: Any) -> None:
    with contextlib.suppress(ValueError):
        for row in read_rows(said):
            assert len(row) <= 8
            assert all(field.isprintable() for field in row)


def test_rows_that_are_deep_or_wild() -> None:
    with pytest.raises(ValueError, match="rows"):
        read_rows(b"[" * 100_000)
    assert read_rows(b'[["0", "\\u001b[2J\\ud800", {"a": 1}], "no", 7]') == [
        ["0", "?[2J?", "{'a': 1}"]
    ]


@given(
    st.dictionaries(
        st.sampled_from(["renew", "hooks"]),
        st.none() | st.integers() | st.text() | st.lists(st.text() | st.lists(st.integers())),
    )
)
def test_what_a_guest_tells_when_it_is_saved_names_no_file_of_its_choice(said: Any) -> None:
    renew, hooks = read_told(said)
    assert set(renew) <= set(RENEWED)
    assert isinstance(hooks, bool)


def test_a_name_that_leads_elsewhere_is_not_renewed() -> None:
    told = {"renew": ["/etc/../../etc/shadow", "/etc/machine-id\0", ["/etc/machine-id"]]}
    assert read_told(told) == ([], False)
    assert read_told({"renew": ["/etc/machine-id"], "hooks": True}) == (["/etc/machine-id"], True)


def test_what_a_guests_kernel_refused_with_is_kept_on_the_way() -> None:
    found = guests_error(wire.error_to_wire(errors.KernelFault("enter /nope", errno.ENOENT)))
    assert isinstance(found, errors.MachineFault)
    again = wire.error_from_wire(wire.error_to_wire(found))
    assert (type(again), again.message) == (errors.MachineFault, found.message)
    assert getattr(again, "errno", 0) == errno.ENOENT
