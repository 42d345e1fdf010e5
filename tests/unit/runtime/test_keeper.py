"""The keeper, with plain forked programs in place of containers."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skerry.base.errors import CommandNotFound, Unavailable
from skerry.base.isolation import Exit
from skerry.kernel.descriptors import pidfd_open, send_fds
from skerry.runtime import attached, rundir, wire
from skerry.runtime.keeper import keep
from skerry.runtime.starter import Ends, Launched, OnCloned, Programs

DEADLINE = 120.0
NR_WRITE = {"x86_64": "1 ", "aarch64": "64 "}.get(os.uname().machine, "?")


class Forked(Programs):
    """Runs `args` as a plain child."""

    def __init__(self, args: list[str]) -> None:
        self._args = args

    def launch(
        self, head: dict[str, Any], body: bytes, ends: Ends, on_cloned: OnCloned
    ) -> Launched:
        if self._args[0] == "missing":
            raise CommandNotFound('exec: "missing": executable file not found in $PATH', hint="h")
        pid = os.fork()
        if pid == 0:
            try:
                self._execute(ends.stdin, ends.stdout, ends.stderr, ends.console)
            finally:
                os._exit(99)
        return Launched(pid, pidfd_open(pid))

    def kill_rest(self, cgroup: str) -> bool:
        return False

    def clean_up(self, cgroup: str, poststop: bytes) -> None:
        return

    def _execute(self, stdin: int, stdout: int, stderr: int, console: int) -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if console >= 0:
            os.setsid()
            master, slave = pty.openpty()
            send_fds(socket.socket(fileno=console), b"console", (master,))
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            stdin = stdout = stderr = slave
        for number, fd in enumerate((stdin, stdout, stderr)):
            os.dup2(fd, number)
        os.execvp(self._args[0], self._args)


class Kept:
    """A keeper of one program, and the test's line to it."""

    def __init__(self, run_dir: Path, args: list[str], **options: Any) -> None:
        attach = options.pop("attach", None)
        head = {
            "version": wire.VERSION,
            "run_dir": str(run_dir),
            "log": ["none", "", 0, 0, False],
            "terminal": False,
            "open_stdin": False,
            "stdin_once": False,
            "attach": attach,
            "facts": {"id": "test"},
            **options,
        }
        self.run_dir = run_dir
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(DEADLINE)
        fds = [theirs.detach()]
        self.data: socket.socket | None = None
        if attach is not None:
            self.data, end = socket.socketpair()
            self.data.settimeout(DEADLINE)
            fds.append(end.detach())
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.control.close()
                if self.data is not None:
                    self.data.close()
                keep(wire.pack(head)[0], tuple(fds), Forked(args))
            finally:
                os._exit(0)
        for fd in fds:
            os.close(fd)
        self.reaped = False

    def event(self) -> dict[str, Any]:
        message = wire.receive(self.control)
        assert message is not None, "the keeper has gone"
        return message.head

    def started(self) -> dict[str, Any]:
        assert self.event() == {"event": "taken"}
        head = self.event()
        assert head["event"] == "started", head
        return head

    def ask(self, op: str, fds: tuple[int, ...] = (), **words: Any) -> dict[str, Any]:
        wire.send(self.control, {"op": op, "seq": 7, **words}, fds=fds)
        head = self.event()
        assert head["reply"] == 7
        return head

    def attach(self, stdin: bool, stdout: bool = True, stderr: bool = True) -> socket.socket:
        mine, theirs = socket.socketpair()
        mine.settimeout(DEADLINE)
        with theirs:
            assert "error" not in self.ask(
                "attach", (theirs.fileno(),), how=[stdin, stdout, stderr]
            )
        return mine

    def exit(self) -> dict[str, Any]:
        head = self.event()
        assert head["event"] == "exit", head
        return head

    def leave(self) -> None:
        """Wait until the keeper's process has ended."""
        pidfd = pidfd_open(self.pid)
        try:
            assert select.select([pidfd], [], [], DEADLINE)[0], "the keeper stays"
        finally:
            os.close(pidfd)
        os.waitpid(self.pid, 0)
        self.reaped = True

    def close(self) -> None:
        self.control.close()
        if self.data is not None:
            self.data.close()
        if not self.reaped:
            with contextlib.suppress(FileNotFoundError):
                task = json.loads((self.run_dir / rundir.TASK).read_text())
                os.kill(task["pid"], signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


Keep = Callable[..., Kept]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Keep]:
    made: list[Kept] = []

    def make(args: list[str], **options: Any) -> Kept:
        run_dir = tmp_path / f"run{len(made)}"
        run_dir.mkdir()
        made.append(Kept(run_dir, args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def received(sock: socket.socket) -> bytes:
    """Everything until the end of the stream."""
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def unframed(data: bytes) -> dict[int, bytes]:
    """Docker's frames put together by stream number."""
    streams: dict[int, bytes] = {}
    while data:
        number, length = struct.unpack_from(">BxxxI", data)
        assert len(data) >= 8 + length
        streams[number] = streams.get(number, b"") + data[8 : 8 + length]
        data = data[8 + length :]
    return streams


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_output_is_framed_per_stream_from_the_first_byte(kept: Keep) -> None:
    one = kept(sh("echo out; echo err >&2; exit 3"), attach=[False, True, True])
    started = one.started()
    assert started["pid"] != one.pid
    assert one.data is not None
    assert unframed(received(one.data)) == {1: b"out\n", 2: b"err\n"}
    end = one.exit()
    assert (end["code"], end["oom_killed"], end["error"]) == (3, False, "")
    one.leave()
    record = rundir.read_exit(str(one.run_dir))
    assert record == Exit(3, False, end["finished_at"])
    assert sorted(os.listdir(one.run_dir)) == ["exit.json", "keeper.pid"]


def test_killed_program_has_128_plus_signal_and_the_signal_is_recorded(kept: Keep) -> None:
    one = kept(sh("kill -TERM $$"))
    one.started()
    assert one.exit()["code"] == 128 + signal.SIGTERM
    one.leave()
    assert json.loads((one.run_dir / "exit.json").read_text())["signal"] == signal.SIGTERM


def test_log_is_complete_when_the_exit_is_told(kept: Keep, tmp_path: Path) -> None:
    path = tmp_path / "json.log"
    script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; printf rest"
    one = kept(sh(script), log=["json-file", str(path), 0, 1, False])
    one.started()
    one.exit()
    texts = [json.loads(line)["log"] for line in path.read_bytes().splitlines()]
    assert texts == [f"line {number}\n" for number in range(5000)] + ["rest"]


def test_failure_is_told_with_its_type_and_leaves_nothing(kept: Keep) -> None:
    one = kept(["missing"])
    assert one.event() == {"event": "taken"}
    head = one.event()
    assert head["event"] == "failed"
    error = wire.error_from_wire(head["error"])
    assert isinstance(error, CommandNotFound)
    assert error.hint == "h"
    one.leave()
    assert os.listdir(one.run_dir) == []


def test_a_log_that_cannot_be_opened_fails_the_start(kept: Keep, tmp_path: Path) -> None:
    one = kept(["true"], log=["json-file", str(tmp_path / "none" / "log"), 0, 1, False])
    one.event()
    assert one.event()["error"]["type"] == "KernelFault"


def test_input_reaches_the_program_and_half_close_ends_it(kept: Keep) -> None:
    one = kept(["cat"], open_stdin=True, stdin_once=True, attach=[True, True, True])
    one.started()
    assert one.data is not None
    text = os.urandom(300_000).hex().encode()
    sender = os.fork()
    if sender == 0:
        one.data.sendall(text)
        one.data.shutdown(socket.SHUT_WR)
        os._exit(0)
    assert unframed(received(one.data)) == {1: text}
    os.waitpid(sender, 0)
    assert one.exit()["code"] == 0


def test_client_that_sends_and_leaves_at_once_is_heard(kept: Keep, tmp_path: Path) -> None:
    target = tmp_path / "got"
    one = kept(sh(f"cat > {target}"), open_stdin=True, stdin_once=True, attach=[True, False, False])
    assert one.data is not None
    one.data.sendall(b"last words")
    one.data.close()
    one.started()
    assert one.exit()["code"] == 0
    assert target.read_bytes() == b"last words"


def test_without_stdin_once_input_stays_open_for_the_next_client(kept: Keep) -> None:
    one = kept(["cat"], open_stdin=True)
    one.started()
    first = one.attach(stdin=True)
    first.sendall(b"one\n")
    assert first.recv(100)[8:] == b"one\n"
    first.close()
    second = one.attach(stdin=True)
    second.sendall(b"two\n")
    assert second.recv(100)[8:] == b"two\n"
    second.close()


def test_program_without_open_stdin_reads_an_end_and_clients_input_is_lost(kept: Keep) -> None:
    one = kept(sh("wc -c; sleep 0.01; echo done"), attach=[True, True, False])
    assert one.data is not None
    one.data.sendall(b"ignored")
    assert unframed(received(one.data)) == {1: b"0\ndone\n"}
    one.started()
    assert one.exit()["code"] == 0


def test_program_that_closes_its_input_blocks_no_client(kept: Keep, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    one = kept(
        sh(f"exec 0<&-; cat {fifo}"), open_stdin=True, stdin_once=True, attach=[True, True, True]
    )
    one.started()
    assert one.data is not None
    # More than pipe and socket hold together, so the keeper must have thrown it away.
    one.data.sendall(b"x" * 1_000_000)
    fifo.write_text("end")
    assert unframed(received(one.data)) == {1: b"end"}
    assert one.exit()["code"] == 0


def test_client_chooses_streams(kept: Keep) -> None:
    one = kept(sh("read x; echo out; echo err >&2"), open_stdin=True)
    one.started()
    errors = one.attach(stdin=False, stdout=False)
    both = one.attach(stdin=True)
    both.sendall(b"\n")
    assert unframed(received(errors)) == {2: b"err\n"}
    assert unframed(received(both)) == {1: b"out\n", 2: b"err\n"}
    errors.close()
    both.close()


def test_slow_client_holds_the_program_up_and_loses_nothing(kept: Keep) -> None:
    size = 8_000_000
    one = kept(["head", "-c", str(size), "/dev/zero"], attach=[False, True, False])
    pid = one.started()["pid"]
    blocked = Path(f"/proc/{pid}/syscall")
    until(lambda: blocked.read_text().startswith(NR_WRITE), "the program does not wait in write")
    assert one.data is not None
    assert len(unframed(received(one.data))[1]) == size
    assert one.exit()["code"] == 0


def test_client_that_takes_nothing_for_long_is_dropped_and_the_program_goes_on(
    kept: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "STALL_LIMIT", 0.1)
    one = kept(["head", "-c", "8000000", "/dev/zero"], attach=[False, True, False])
    one.started()
    assert one.exit()["code"] == 0


def test_output_that_waits_for_a_client_survives_the_keeper(kept: Keep) -> None:
    one = kept(sh("head -c 150000 /dev/zero"), attach=[False, True, True])
    one.started()
    # The socket and the pipe together hold all of it, so the program can end unread.
    one.exit()
    if os.geteuid() == 0:
        one.leave()
    assert one.data is not None
    assert len(unframed(received(one.data))[1]) == 150_000


def test_client_that_vanishes_does_not_disturb(kept: Keep) -> None:
    one = kept(sh("read x; head -c 500000 /dev/zero; echo end >&2"), open_stdin=True)
    one.started()
    leaver = one.attach(stdin=False)
    stayer = one.attach(stdin=True)
    leaver.close()
    stayer.sendall(b"\n")
    streams = unframed(received(stayer))
    assert (len(streams[1]), streams[2]) == (500_000, b"end\n")
    stayer.close()


def test_terminal_is_raw_and_can_be_resized(kept: Keep) -> None:
    one = kept(
        sh("read x; stty size; tty | sed s/[0-9]*$//"),
        terminal=True,
        open_stdin=True,
        attach=[True, True, True],
    )
    one.started()
    assert one.ask("resize", rows=33, columns=101).get("error") is None
    assert one.data is not None
    one.data.sendall(b"go\n")
    assert received(one.data) == b"go\r\n33 101\r\n/dev/pts/\r\n"
    assert one.exit()["code"] == 0


def test_resize_without_terminal_is_a_conflict(kept: Keep) -> None:
    one = kept(["sleep", "60"])
    one.started()
    assert one.ask("resize", rows=1, columns=1)["error"]["type"] == "Conflict"
    assert one.ask("nonsense")["error"]["type"] == "InvalidInput"


def test_later_engine_finds_status_and_hears_the_exit(kept: Keep) -> None:
    one = kept(sh("read x; exit 5"), open_stdin=True)
    started = one.started()
    one.control.close()
    later = rundir.connect(str(one.run_dir))
    assert later is not None
    one.control = later
    later.settimeout(DEADLINE)
    status = one.ask("status")
    assert (status["pid"], status["start_time"]) == (started["pid"], started["start_time"])
    assert json.loads(status["facts"]) == {"id": "test"}
    task = rundir.read_json(str(one.run_dir), rundir.TASK)
    assert task == {
        "id": "test",
        "version": 1,
        "pid": started["pid"],
        "start_time": started["start_time"],
    }
    assert rundir.keeper_of(str(one.run_dir)) == (one.pid, rundir.start_time(one.pid))
    one.attach(stdin=True).sendall(b"\n")
    assert one.exit()["code"] == 5
    one.leave()
    assert rundir.keeper_of(str(one.run_dir)) is None
    assert rundir.connect(str(one.run_dir)) is None


def test_nothing_starts_for_an_engine_that_has_gone(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "exit.json").write_text("the last run's")
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.close()
    marker = tmp_path / "ran"
    head = {
        "version": wire.VERSION,
        "run_dir": str(run_dir),
        "log": ["none", "", 0, 0, False],
        "terminal": False,
    }
    pid = os.fork()
    if pid == 0:
        program = Forked(["touch", str(marker)])
        keep(wire.pack(head)[0], (theirs.detach(),), program)
        os._exit(0)
    os.waitpid(pid, 0)
    theirs.close()
    assert not marker.exists()
    assert (run_dir / "exit.json").read_text() == "the last run's"
    assert sorted(os.listdir(run_dir)) == ["exit.json"]


def test_request_of_another_version_is_refused_with_the_remedy(kept: Keep) -> None:
    one = kept(["true"], version=wire.VERSION + 1)
    one.event()
    error = wire.error_from_wire(one.event()["error"])
    assert isinstance(error, Unavailable)
    assert "restart the engine" in error.hint


def test_second_keeper_of_a_directory_is_refused_and_harms_nothing(kept: Keep) -> None:
    one = kept(["sleep", "60"])
    one.started()
    other = Kept(one.run_dir, ["true"])
    try:
        other.event()
        assert other.event()["error"]["type"] == "Conflict"
    finally:
        other.leave()
        other.close()
    assert rundir.keeper_of(str(one.run_dir)) == (one.pid, rundir.start_time(one.pid))
    assert one.ask("status")["pid"] > 0


def test_descendant_that_keeps_the_output_open_delays_no_exit(kept: Keep) -> None:
    one = kept(sh("sleep 30 & echo $!"), attach=[False, True, True])
    one.started()
    assert one.exit()["code"] == 0
    assert one.data is not None
    lasting = int(unframed(received(one.data))[1])
    one.leave()
    os.kill(lasting, signal.SIGKILL)


def test_malformed_controller_is_hung_up_on_and_the_program_goes_on(kept: Keep) -> None:
    one = kept(sh("read x; exit 4"), open_stdin=True)
    one.started()
    bad = rundir.connect(str(one.run_dir))
    assert bad is not None
    bad.settimeout(DEADLINE)
    bad.send(b"\xff\xff\xff\xff nonsense")
    assert bad.recv(10) == b""
    bad.close()
    one.attach(stdin=True).sendall(b"\n")
    assert one.exit()["code"] == 4
