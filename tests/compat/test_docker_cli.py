"""The docker command line, unchanged, against the engine: every verb, and what people rely on.

One class a group of verbs. The fixtures are in conftest.py; `docker(...)` returns stdout and checks
the exit code.
"""

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("leaves_nothing"), pytest.mark.timeout(60)]

Docker = Callable[..., str]
Complaint = Callable[..., tuple[int, str]]
Until = Callable[..., None]

RUN = ("run", "--rm", "--network", "none")


def inspect(docker: Docker, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", name))[0]
    return found


def field(docker: Docker, name: str, template: str) -> str:
    return docker("inspect", "--format", template, name)


class TestRun:
    def test_output_and_exit_code(self, docker: Docker) -> None:
        assert docker(*RUN, "busybox", "echo", "hi") == "hi"
        docker(*RUN, "busybox", "sh", "-c", "exit 7", code=7)

    def test_stdout_and_stderr_stay_apart(self, daemon: Any) -> None:
        done = daemon.docker(*RUN, "busybox", "sh", "-c", "echo out; echo err >&2")
        assert (done.stdout, done.stderr) == ("out\n", "err\n")

    def test_stdin_goes_in_whole(self, docker: Docker) -> None:
        data = os.urandom(300_000).hex().encode()
        told = docker(*RUN, "-i", "busybox", "md5sum", stdin=data)
        own = subprocess.run(["md5sum"], input=data, capture_output=True, check=True)
        assert told.split()[0].encode() == own.stdout.split()[0]

    def test_much_output_comes_out_whole(self, docker: Docker) -> None:
        out = docker(*RUN, "busybox", "seq", "100000")
        assert out.splitlines() == [str(n) for n in range(1, 100001)]

    def test_detached(self, docker: Docker, name: str) -> None:
        made = docker("run", "-d", "--network", "none", "--name", name, "busybox", "sleep", "100")
        assert len(made) == 64
        assert docker("ps", "-q", "--no-trunc", "--filter", f"name={name}") == made

    def test_rm_removes_a_detached_one_after_its_end(
        self, docker: Docker, name: str, until: Until
    ) -> None:
        docker("run", "-d", "--rm", "--network", "none", "--name", name, "busybox", "true")
        until(lambda: not docker("ps", "-aq", "--filter", f"name={name}"), "removal")

    def test_name_twice_is_a_conflict(
        self, docker: Docker, complaint: Complaint, sleeper: str
    ) -> None:
        code, said = complaint("run", "--name", sleeper, "--network", "none", "busybox", "true")
        assert code == 125
        assert "is already in use" in said

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (127, ("busybox", "/no/such/program")),
            (126, ("busybox", "/etc")),
            (125, ("--memory", "1k", "busybox", "true")),
            (125, ("--pull", "never", "nosuchimage:x", "true")),
        ],
    )
    def test_what_cannot_start(
        self, complaint: Complaint, docker: Docker, code: int, words: tuple[str, ...]
    ) -> None:
        got, said = complaint(*RUN, *words)
        assert got == code, said
        assert said.strip()
        assert "Traceback" not in said

    def test_killed_is_137_and_stopped_is_143(self, docker: Docker, sleeper: str) -> None:
        docker("kill", sleeper)
        assert docker("wait", sleeper) == "137"
        docker("start", sleeper)
        docker("stop", sleeper)
        assert docker("wait", sleeper) == "143"


class TestConfiguration:
    def test_environment(self, docker: Docker, tmp_path: Path) -> None:
        listed = tmp_path / "env"
        listed.write_text("# comment\nFROM_FILE=a b\n")
        words = ("-e", "GIVEN=1 2", "--env-file", str(listed), "busybox", "env")
        lines = docker(*RUN, "--hostname", "box", *words).splitlines()
        assert {"GIVEN=1 2", "FROM_FILE=a b", "HOSTNAME=box", "HOME=/root"} <= set(lines)
        assert any(line.startswith("PATH=") for line in lines)

    def test_workdir_entrypoint_hostname(self, docker: Docker) -> None:
        assert docker(*RUN, "-w", "/made/for/it", "busybox", "pwd") == "/made/for/it"
        assert docker(*RUN, "--entrypoint", "echo", "busybox", "a", "b") == "a b"
        assert docker(*RUN, "--hostname", "box", "busybox", "hostname") == "box"
        assert "localhost" in docker(*RUN, "busybox", "cat", "/etc/hosts")

    def test_users(self, docker: Docker) -> None:
        assert docker(*RUN, "-u", "1000:100", "busybox", "id") == "uid=1000 gid=100(users)" or (
            "uid=1000 gid=100" in docker(*RUN, "-u", "1000:100", "busybox", "id")
        )
        assert docker(*RUN, "-u", "nobody", "busybox", "id", "-un") == "nobody"
        groups = docker(*RUN, "-u", "5", "--group-add", "777", "busybox", "id", "-G")
        assert "777" in groups.split()

    def test_unknown_user_is_125_or_126(self, complaint: Complaint) -> None:
        code, said = complaint(*RUN, "-u", "nosuchuser", "busybox", "true")
        assert code in (125, 126)
        assert "nosuchuser" in said

    def test_capabilities(self, docker: Docker) -> None:
        show = ("busybox", "grep", "CapEff", "/proc/self/status")

        def effective(*options: str) -> int:
            return int(docker(*RUN, *options, *show).split()[1], 16)

        default = effective()
        assert default == 0xA80425FB
        assert effective("--cap-drop", "ALL") == 0
        assert effective("--cap-add", "NET_ADMIN") == default | 1 << 12

    def test_privileged(self, docker: Docker) -> None:
        show = "grep CapEff /proc/self/status; ls /dev"
        out = docker(*RUN, "--privileged", "busybox", "sh", "-c", show)
        assert int(out.split()[1], 16) > 0xA80425FB
        assert "loop-control" in out

    def test_confinement_of_the_default(self, docker: Docker) -> None:
        status = docker(*RUN, "busybox", "cat", "/proc/self/status")
        assert "Seccomp:\t2" in status
        status = docker(
            *RUN, "--security-opt", "seccomp=unconfined", "busybox", "cat", "/proc/1/status"
        )
        assert "Seccomp:\t0" in status
        status = docker(
            *RUN, "--security-opt", "no-new-privileges", "busybox", "cat", "/proc/1/status"
        )
        assert "NoNewPrivs:\t1" in status
        assert docker(*RUN, "busybox", "ls", "/sys/firmware") == ""
        docker(*RUN, "busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/domainname", code=1)

    def test_read_only_root_with_tmpfs(self, docker: Docker) -> None:
        docker(*RUN, "--read-only", "busybox", "touch", "/x", code=1)
        show = "touch /t/x && df -k /t | tail -1"
        out = docker(*RUN, "--read-only", "--tmpfs", "/t:size=1m", "busybox", "sh", "-c", show)
        assert out.split()[1] == "1024"

    def test_bind_mounts(self, docker: Docker, tmp_path: Path) -> None:
        (tmp_path / "in").write_text("seen\n")
        inside = f"{tmp_path}:/m"
        assert (
            docker(*RUN, "-v", inside, "busybox", "sh", "-c", "cat /m/in; echo w > /m/out")
            == "seen"
        )
        assert (tmp_path / "out").read_text() == "w\n"
        docker(*RUN, "-v", f"{inside}:ro", "busybox", "touch", "/m/no", code=1)
        mount = f"type=bind,source={tmp_path},target=/n,readonly"
        assert docker(*RUN, "--mount", mount, "busybox", "cat", "/n/in") == "seen"

    def test_missing_bind_source(self, complaint: Complaint, tmp_path: Path) -> None:
        mount = f"type=bind,source={tmp_path}/none,target=/n"
        code, said = complaint(*RUN, "--mount", mount, "busybox", "true")
        assert code == 125
        assert "bind source path does not exist" in said

    def test_limits(self, docker: Docker, name: str) -> None:
        limits = ("--memory", "64m", "--cpus", "0.5", "--pids-limit", "20", "--shm-size", "1m")
        words = ("--ulimit", "nofile=100:200", "--sysctl", "net.ipv4.ip_unprivileged_port_start=80")
        show = (
            "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_unprivileged_port_start;"
            "df -k /dev/shm | tail -1 | awk '{print $2}';"
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null;"
            "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true"
        )
        out = docker(*RUN, *limits, *words, "busybox", "sh", "-c", show)
        assert out.split() == ["100", "200", "80", "1024", str(64 << 20), "20"]

    def test_out_of_memory(self, docker: Docker, name: str) -> None:
        words = ("--memory", "16m", "--name", name, "--network", "none")
        docker("run", *words, "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", code=137)
        assert field(docker, name, "{{.State.OOMKilled}} {{.State.ExitCode}}") == "true 137"

    def test_init_reaps_and_forwards(self, docker: Docker) -> None:
        first = docker(*RUN, "--init", "busybox", "cat", "/proc/1/comm")
        assert first != "cat"

    def test_labels_and_image_defaults(self, docker: Docker, name: str) -> None:
        docker("create", "--label", "a=b", "--label", "c", "--name", name, "busybox")
        assert field(docker, name, "{{json .Config.Labels}}") == '{"a":"b","c":""}'
        assert docker("ps", "-aq", "--filter", "label=a=b", "--filter", f"name={name}")
        assert not docker("ps", "-aq", "--filter", "label=a=other")

    def test_devices(self, docker: Docker) -> None:
        device = "/dev/loop-control:/dev/mine"
        out = docker(
            *RUN, "--device", device, "busybox", "sh", "-c", ": <>/dev/mine; ls -l /dev/mine"
        )
        assert out.startswith("c")
        docker(*RUN, "--device", f"{device}:r", "busybox", "sh", "-c", ": <>/dev/mine", code=1)


class TestLifeCycle:
    def test_create_start_attached(self, docker: Docker, name: str) -> None:
        docker(
            "create", "--name", name, "--network", "none", "busybox", "sh", "-c", "echo x; exit 3"
        )
        assert field(docker, name, "{{.State.Status}}") == "created"
        assert docker("start", "-a", name, code=3) == "x"
        assert field(docker, name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 3"

    def test_stop_start_restart(self, docker: Docker, sleeper: str) -> None:
        first = field(docker, sleeper, "{{.State.Pid}}")
        docker("restart", sleeper)
        second = field(docker, sleeper, "{{.State.Pid}}")
        assert first != second
        docker("stop", sleeper)
        assert field(docker, sleeper, "{{.State.Running}} {{.State.Pid}}") == "false 0"
        docker("stop", sleeper)
        docker("start", sleeper)
        assert field(docker, sleeper, "{{.State.Running}}") == "true"
        docker("start", sleeper)

    def test_stop_kills_after_the_timeout(self, docker: Docker, name: str) -> None:
        words = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
        docker("run", "-d", "--name", name, "--network", "none", "busybox", *words)
        docker("stop", "-t", "1", name)
        assert field(docker, name, "{{.State.ExitCode}}") == "137"

    def test_stop_signal(self, docker: Docker, name: str, until: Until) -> None:
        words = ("sh", "-c", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done")
        docker(
            "run",
            "-d",
            "--stop-signal",
            "USR1",
            "--name",
            name,
            "--network",
            "none",
            "busybox",
            *words,
        )
        until(lambda: docker("logs", name) == "ready", "the trap")
        docker("stop", name)
        assert field(docker, name, "{{.State.ExitCode}}") == "5"

    def test_kill_with_a_signal(self, docker: Docker, complaint: Complaint, sleeper: str) -> None:
        docker("kill", "-s", "TERM", sleeper)
        assert docker("wait", sleeper) == "143"
        code, said = complaint("kill", sleeper)
        assert code == 1
        assert "is not running" in said

    def test_pause(self, docker: Docker, complaint: Complaint, sleeper: str) -> None:
        docker("pause", sleeper)
        assert field(docker, sleeper, "{{.State.Status}} {{.State.Paused}}") == "paused true"
        assert "(Paused)" in docker("ps", "--filter", f"name={sleeper}")
        assert complaint("pause", sleeper)[0] == 1
        assert complaint("exec", sleeper, "true")[0] == 1
        docker("unpause", sleeper)
        assert field(docker, sleeper, "{{.State.Status}}") == "running"

    def test_rm(self, docker: Docker, complaint: Complaint, sleeper: str) -> None:
        code, said = complaint("rm", sleeper)
        assert code == 1
        assert "running" in said
        docker("rm", "-f", sleeper)
        code, said = complaint("inspect", sleeper)
        assert code == 1
        assert "No such object" in said or "no such object" in said

    def test_rename(self, docker: Docker, sleeper: str) -> None:
        docker("rename", sleeper, f"{sleeper}-new")
        assert field(docker, f"{sleeper}-new", "{{.Name}}") == f"/{sleeper}-new"
        docker("rename", f"{sleeper}-new", sleeper)

    def test_update(self, docker: Docker, sleeper: str) -> None:
        docker(
            "update", "--memory", "32m", "--memory-swap", "64m", "--restart", "on-failure", sleeper
        )
        told = inspect(docker, sleeper)["HostConfig"]
        assert (told["Memory"], told["RestartPolicy"]["Name"]) == (32 << 20, "on-failure")

    def test_restart_on_failure(self, docker: Docker, name: str, until: Until) -> None:
        policy = ("--restart", "on-failure:2")
        docker(
            "run",
            "-d",
            *policy,
            "--network",
            "none",
            "--name",
            name,
            "busybox",
            "sh",
            "-c",
            "exit 3",
        )
        shown = "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}"
        until(lambda: field(docker, name, shown) == "exited 2 3", "two restarts")

    def test_restart_always_until_stopped(self, docker: Docker, name: str, until: Until) -> None:
        always = ("--restart", "always", "--network", "none", "--name", name)
        docker("run", "-d", *always, "busybox", "sleep", "0.05")
        until(lambda: int(field(docker, name, "{{.RestartCount}}")) >= 2, "restarts")
        docker("stop", "-t", "0", name)
        assert field(docker, name, "{{.State.Running}} {{.State.Restarting}}") == "false false"

    def test_health(self, docker: Docker, name: str, until: Until) -> None:
        check = (
            "--health-cmd",
            "test -f /ok",
            "--health-interval",
            "100ms",
            "--health-retries",
            "1",
        )
        docker(
            "run",
            "-d",
            *check,
            "--network",
            "none",
            "--init",
            "--name",
            name,
            "busybox",
            "sleep",
            "99",
        )
        shown = "{{.State.Health.Status}}"
        until(lambda: field(docker, name, shown) == "unhealthy", "unhealthy")
        docker("exec", name, "touch", "/ok")
        until(lambda: field(docker, name, shown) == "healthy", "healthy")
        assert "(healthy)" in docker("ps", "--filter", f"name={name}")

    def test_wait_for_several(self, docker: Docker, sleeper: str, background: Any) -> None:
        waiting = background("wait", sleeper)
        docker("kill", "-s", "INT", sleeper)
        out, _ = waiting.communicate(timeout=20)
        assert out == b"130\n"


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

    def test_logs_follow(self, docker: Docker, name: str, background: Any) -> None:
        words = ("sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
        docker("run", "-d", "--network", "none", "--name", name, "busybox", *words)
        out, _ = background("logs", "-f", name).communicate(timeout=20)
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
        assert field(docker, name, "{{.State.Running}}") == "true"
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
        assert field(docker, name, "{{.State.Running}}") == "true"

    def test_attach_sees_output_and_the_exit_code(
        self, docker: Docker, name: str, background: Any
    ) -> None:
        words = ("sh", "-c", "read line; echo got $line; read line; exit 11")
        docker("run", "-d", "-i", "--network", "none", "--name", name, "busybox", *words)
        attached = background("attach", name)
        attached.stdin.write(b"hello\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == b"got hello\n"
        out, _ = attached.communicate(b"bye\n", timeout=20)
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
        out, _ = running.communicate(timeout=20)
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


class TestFiles:
    def test_copy_both_ways(self, docker: Docker, sleeper: str, tmp_path: Path) -> None:
        source = tmp_path / "dir"
        (source / "sub").mkdir(parents=True)
        (source / "sub/file").write_text("content")
        (source / "run.sh").write_text("#!/bin/sh\n")
        (source / "run.sh").chmod(0o755)
        docker("cp", str(source), f"{sleeper}:/opt")
        assert docker("exec", sleeper, "cat", "/opt/sub/file") == "content"
        assert docker("exec", sleeper, "stat", "-c", "%a", "/opt/run.sh") == "755"
        docker("cp", f"{sleeper}:/opt", str(tmp_path / "back"))
        assert (tmp_path / "back/sub/file").read_text() == "content"
        docker("cp", f"{sleeper}:/opt/sub/file", str(tmp_path / "one"))
        assert (tmp_path / "one").read_text() == "content"

    def test_copy_as_tar(self, daemon: Any, docker: Docker, sleeper: str) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            info = tarfile.TarInfo("note")
            info.size = 2
            tar.addfile(info, io.BytesIO(b"hi"))
        docker("cp", "-", f"{sleeper}:/tmp", stdin=packed.getvalue())
        assert docker("exec", sleeper, "cat", "/tmp/note") == "hi"
        out = daemon.docker("cp", f"{sleeper}:/tmp/note", "-").stdout
        with tarfile.open(fileobj=io.BytesIO(out.encode())) as tar:
            assert tar.getnames() == ["note"]

    def test_copy_from_a_stopped_container(
        self, docker: Docker, complaint: Complaint, sleeper: str, tmp_path: Path
    ) -> None:
        docker("exec", sleeper, "sh", "-c", "echo kept > /kept")
        docker("stop", sleeper)
        docker("cp", f"{sleeper}:/kept", str(tmp_path / "kept"))
        assert (tmp_path / "kept").read_text() == "kept\n"
        assert complaint("cp", f"{sleeper}:/none", str(tmp_path))[0] == 1

    def test_copy_stays_inside(self, docker: Docker, sleeper: str, tmp_path: Path) -> None:
        docker("exec", sleeper, "ln", "-s", "/etc/hostname", "/link")
        docker("cp", "-L", f"{sleeper}:/link", str(tmp_path / "got"))
        assert (tmp_path / "got").read_text().strip() == docker("exec", sleeper, "hostname")

    def test_diff(self, docker: Docker, sleeper: str) -> None:
        docker("exec", sleeper, "sh", "-c", "touch /new; rm /etc/group; echo >> /etc/passwd")
        lines = set(docker("diff", sleeper).splitlines())
        assert {"A /new", "D /etc/group", "C /etc/passwd", "C /etc"} <= lines


class TestImages:
    def test_commit_history_tag_rmi(
        self, docker: Docker, complaint: Complaint, sleeper: str
    ) -> None:
        docker("exec", sleeper, "sh", "-c", "echo more > /more")
        image = f"mine/{sleeper}:v1"
        docker(
            "commit",
            "-m",
            "why",
            "-a",
            "me",
            "-c",
            "ENV A=b",
            "-c",
            'CMD ["cat","/more"]',
            sleeper,
            image,
        )
        assert docker(*RUN, image) == "more"
        assert docker(*RUN, image, "sh", "-c", "echo $A") == "b"
        assert len(docker("history", "-q", image).splitlines()) >= 2
        assert "why" in docker("history", "--no-trunc", image)
        docker("tag", image, f"mine/{sleeper}:v2")
        listed = docker("images", "--format", "{{.Tag}}", f"mine/{sleeper}").split()
        assert sorted(listed) == ["v1", "v2"]
        assert "Untagged" in docker("rmi", image)
        assert "Deleted" in docker("rmi", f"mine/{sleeper}:v2")
        assert complaint("rmi", image)[0] == 1

    def test_inspect(self, docker: Docker) -> None:
        image = json.loads(docker("image", "inspect", "busybox"))[0]
        assert image["Id"].startswith("sha256:")
        assert "busybox:latest" in image["RepoTags"]
        assert image["Os"] == "linux"
        assert len(image["RootFS"]["Layers"]) >= 1
        assert docker("images", "-q", "--no-trunc", "busybox") == image["Id"]

    def test_image_in_use(self, docker: Docker, complaint: Complaint, sleeper: str) -> None:
        docker("tag", "busybox", "busybox:kept")
        docker("rmi", "busybox:kept")
        used = docker("commit", sleeper, "used-image")
        docker("create", "--name", f"{sleeper}-b", "used-image", "true")
        code, said = complaint("rmi", used)
        docker("rm", f"{sleeper}-b")
        docker("rmi", "used-image")
        assert code == 1
        assert "conflict" in said

    def test_unknown_image(self, complaint: Complaint) -> None:
        code, said = complaint("image", "inspect", "nosuchimage")
        assert code == 1
        assert "nosuchimage" in said


class TestLooking:
    def test_ps(self, docker: Docker, sleeper: str) -> None:
        line = docker(
            "ps",
            "--filter",
            f"name={sleeper}",
            "--format",
            "{{.Names}}|{{.Image}}|{{.Command}}|{{.State}}",
        )
        assert line == f'{sleeper}|busybox|"sleep 1000"|running' or line.startswith(
            f"{sleeper}|busybox|"
        )
        assert "Up " in docker("ps", "--filter", f"name={sleeper}")
        docker("stop", sleeper)
        assert not docker("ps", "-q", "--filter", f"name={sleeper}")
        assert "Exited (143)" in docker("ps", "-a", "--filter", f"name={sleeper}")
        assert docker("ps", "-aq", "--filter", "status=exited", "--filter", f"name={sleeper}")
        assert docker("ps", "-a", "--size", "--filter", f"name={sleeper}")

    def test_top(self, docker: Docker, sleeper: str) -> None:
        assert "sleep 1000" in docker("top", sleeper)
        assert "COMMAND" in docker("top", sleeper, "-o", "pid,comm").upper()

    def test_stats(self, docker: Docker, sleeper: str) -> None:
        line = docker(
            "stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", sleeper
        )
        assert line.startswith(f"{sleeper} 2 ")
        assert "iB" in line

    def test_inspect_format(self, docker: Docker, sleeper: str) -> None:
        told = inspect(docker, sleeper)
        assert told["State"]["Running"] is True
        assert told["Config"]["Image"] == "busybox"
        assert told["Path"] == "sleep"
        assert told["Args"] == ["1000"]
        assert told["HostConfig"]["NetworkMode"] == "none"
        assert field(docker, sleeper, "{{.Config.Cmd}}") == "[sleep 1000]"
        assert docker("inspect", "--size", "--format", "{{.SizeRw}}", sleeper).isdigit()

    def test_ids_may_be_shortened(self, docker: Docker, sleeper: str) -> None:
        full = field(docker, sleeper, "{{.Id}}")
        assert field(docker, full[:8], "{{.Id}}") == full

    def test_events_of_a_life(self, docker: Docker, name: str) -> None:
        begin = f"{time.time():.6f}"
        docker("run", "--rm", "--network", "none", "--name", name, "busybox", "true")
        end = f"{time.time() + 1:.6f}"
        words = (
            "--since",
            begin,
            "--until",
            end,
            "--filter",
            f"container={name}",
            "--format",
            "{{.Action}}",
        )
        seen = docker("events", *words).splitlines()
        wanted = ["create", "start", "die", "destroy"]
        assert [action for action in seen if action in wanted] == wanted

    def test_events_live(self, docker: Docker, name: str, background: Any) -> None:
        watching = background(
            "events", "--filter", "event=rename", "--format", "{{.Actor.Attributes.oldName}}"
        )
        docker("create", "--name", name, "busybox")
        deadline = time.monotonic() + 10
        # The watch has no sign that it is in place, so rename until it reports.
        while time.monotonic() < deadline:
            docker("rename", name, f"{name}-x")
            docker("rename", f"{name}-x", name)
            os.set_blocking(watching.stdout.fileno(), False)
            if told := watching.stdout.read():
                assert name.encode() in told
                return
        pytest.fail("no event came")


class TestSystem:
    def test_version_and_info(self, docker: Docker) -> None:
        assert docker("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}") == "linux/amd64"
        assert float(docker("version", "--format", "{{.Server.APIVersion}}")) >= 1.41
        told = json.loads(docker("info", "--format", "{{json .}}"))
        assert told["OSType"] == "linux"
        assert told["NCPU"] == os.cpu_count()
        assert told["ServerVersion"]
        assert docker("info")

    def test_df(self, docker: Docker, sleeper: str) -> None:
        kinds = docker("system", "df", "--format", "{{.Type}}").splitlines()
        assert kinds[:2] == ["Images", "Containers"]
        assert sleeper in docker("system", "df", "-v")

    def test_prune(self, docker: Docker, name: str, sleeper: str) -> None:
        docker("create", "--name", f"{name}-gone", "busybox")
        docker("container", "prune", "-f")
        assert not docker("ps", "-aq", "--filter", f"name={name}-gone")
        assert field(docker, sleeper, "{{.State.Running}}") == "true"
        assert "reclaimed space" in docker("system", "prune", "-f")
        assert docker("images", "-q", "busybox")
