"""The docker command line against the engine: logs, attach, exec, terminals."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("leaves_nothing")]

Docker = Any
Complaint = Callable[..., tuple[int, str]]
Until = Callable[..., None]

RUN = ("run", "--rm", "--network", "none")


class TestStreams:
    def test_logs(self, docker: Docker, daemon: Any, name: str) -> None:
        words = ("sh", "-c", "echo one; echo two; echo err >&2")
        docker("run", "--network", "none", "--name", name, "busybox", *words)
        done = daemon.docker("logs", name)
        assert (done.stdout, done.stderr) == ("one\ntwo\n", "err\n")
        assert docker("logs", "--tail", "1", name) in ("two", "")
        stamped = docker("logs", "-t", name).splitlines()[0]
        assert stamped.endswith(" one")
        assert stamped[:2] == "20"
        assert docker("logs", "--since", "2099-01-01T00:00:00Z", name) == ""

    def test_the_compact_driver(self, docker: Docker, daemon: Any) -> None:
        kept = ("--log-driver", "local", "--log-opt", "max-size=1k")
        told = "for i in $(seq 90); do echo line $i; done; echo error >&2; test -e /.dockerenv"
        name = docker("create", "--network", "none", *kept, "busybox", "sh", "-c", told)
        try:
            docker("start", "-a", name)
            done = daemon.docker("logs", name)
            assert done.stdout.splitlines() == [f"line {number}" for number in range(1, 91)]
            assert done.stderr == "error\n"
            assert docker("logs", "--tail", "1", name) in ("line 90", "")
        finally:
            docker("rm", "-f", name)

    def test_logs_follow(self, docker: Docker, name: str, background: Any) -> None:
        words = ("sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
        docker("run", "-d", "--network", "none", "--name", name, "busybox", *words)
        out, _ = background("logs", "-f", name).communicate(timeout=120)
        assert out.split() == [b"1", b"2", b"3", b"4", b"5"]

    def test_run_on_a_terminal(self, terminal: Any) -> None:
        screen = terminal(
            *RUN, "-it", "busybox", "sh", "-c", "test -t 0 && test -t 1 && tty; exit 4"
        )
        screen.expect(b"/dev/pts/0\r\n")
        assert screen.wait() == 4

    def test_terminal_follows_the_window(self, docker: Docker, terminal: Any, name: str) -> None:
        screen = terminal(*RUN, "-it", "--name", name, "busybox", "sh")
        screen.resize(33, 99)
        screen.send(b"until [ \"$(stty size)\" = '33 99' ]; do :; done; echo is-$((40+2))\n")
        screen.expect(b"is-42")
        screen.send(b"exit 6\n")
        assert screen.wait() == 6

    def test_ctrl_c_reaches_the_program(self, terminal: Any) -> None:
        words = (
            "sh",
            "-c",
            "trap 'echo caught; exit 9' INT; echo re''ady; while :; do sleep 0.05; done",
        )
        screen = terminal(*RUN, "-it", "busybox", *words)
        screen.expect(b"ready")
        screen.send(b"\x03")
        screen.expect(b"caught")
        assert screen.wait() == 9

    def test_detach_and_attach(self, docker: Docker, terminal: Any, name: str) -> None:
        screen = terminal("run", "-it", "--network", "none", "--name", name, "busybox", "sh")
        screen.send(b"echo first-$((1+1))\n")
        screen.expect(b"first-2\r\n")
        screen.send(b"\x10\x11")
        assert screen.wait() == 0
        assert docker.field(name, "{{.State.Running}}") == "true"
        screen = terminal("attach", name)
        screen.send(b"echo second-$((1+2))\n")
        screen.expect(b"second-3\r\n")
        screen.send(b"exit 8\n")
        assert screen.wait() == 8

    def test_own_detach_keys(self, docker: Docker, terminal: Any, name: str) -> None:
        keys = ("--detach-keys", "ctrl-a,d")
        screen = terminal("run", "-it", *keys, "--network", "none", "--name", name, "busybox", "sh")
        screen.send(b"echo up-$((1+1))\n")
        screen.expect(b"up-2\r\n")
        screen.send(b"\x01d")
        assert screen.wait() == 0
        assert docker.field(name, "{{.State.Running}}") == "true"

    def test_attach_sees_output_and_the_exit_code(
        self, docker: Docker, name: str, background: Any
    ) -> None:
        words = ("sh", "-c", "read line; echo got $line; read line; exit 11")
        docker("run", "-d", "-i", "--network", "none", "--name", name, "busybox", *words)
        attached = background("attach", name)
        attached.stdin.write(b"hello\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == b"got hello\n"
        out, _ = attached.communicate(b"bye\n", timeout=120)
        assert (out, attached.returncode) == (b"", 11)

    def test_attached_run_forwards_signals(
        self, docker: Docker, name: str, background: Any
    ) -> None:
        words = (
            "sh",
            "-c",
            "trap 'echo term; exit 12' TERM; echo ready; while :; do sleep 0.05; done",
        )
        running = background(*RUN, "--name", name, "busybox", *words)
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        out, _ = running.communicate(timeout=120)
        assert (out, running.returncode) == (b"term\n", 12)


class TestExec:
    def test_output_codes_and_options(self, docker: Docker, sleeper: str) -> None:
        assert docker("exec", sleeper, "echo", "in") == "in"
        docker("exec", sleeper, "sh", "-c", "exit 5", code=5)
        options = ("-e", "A=b", "-w", "/tmp", "-u", "nobody")
        out = docker("exec", *options, sleeper, "sh", "-c", "echo $A $PWD $(id -un)")
        assert out == "b /tmp nobody"
        assert docker("exec", "-i", sleeper, "cat", stdin=b"through") == "through"

    def test_shares_the_namespaces(self, docker: Docker, sleeper: str) -> None:
        out = docker("exec", sleeper, "ps", "-o", "pid,comm")
        assert "sleep" in out

    def test_what_cannot_start(self, complaint: Complaint, sleeper: str) -> None:
        assert complaint("exec", sleeper, "/no/such")[0] in (126, 127)
        assert complaint("exec", sleeper, "/etc")[0] == 126

    def test_on_a_terminal(self, terminal: Any, sleeper: str) -> None:
        screen = terminal("exec", "-it", sleeper, "sh")
        screen.resize(21, 77)
        screen.send(b"until [ \"$(stty size)\" = '21 77' ]; do :; done; echo is-$((40+2))\n")
        screen.expect(b"is-42")
        screen.send(b"exit 3\n")
        assert screen.wait() == 3

    def test_detached(self, docker: Docker, sleeper: str, until: Until) -> None:
        docker("exec", "-d", sleeper, "touch", "/made")
        until(lambda: "/made" in docker("diff", sleeper), "the file")

    def test_in_a_stopped_container(
        self, docker: Docker, complaint: Complaint, sleeper: str
    ) -> None:
        docker("stop", sleeper)
        code, said = complaint("exec", sleeper, "true")
        assert code == 1
        assert "is not running" in said
