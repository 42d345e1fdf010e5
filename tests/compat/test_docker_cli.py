"""The docker command line, unchanged, against the engine: running containers and their life cycle.

The fixtures are in conftest.py; `docker(...)` returns stdout and checks the exit code.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("leaves_nothing")]

Docker = Any
Complaint = Callable[..., tuple[int, str]]
Until = Callable[..., None]

RUN = ("run", "--rm", "--network", "none")


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

    def test_without_a_word_about_the_network(self, docker: Docker) -> None:
        assert docker("run", "--rm", "busybox", "echo", "hi") == "hi"

    def test_detached(self, docker: Docker, name: str) -> None:
        made = docker("run", "-d", "--network", "none", "--name", name, "busybox", "sleep", "1000")
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

    def test_killed_is_137_and_stopped_is_143(
        self, docker: Docker, sleeper: str, listening: Callable[[str], None]
    ) -> None:
        docker("kill", sleeper)
        assert docker("wait", sleeper) == "137"
        docker("start", sleeper)
        listening(sleeper)
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
        assert docker.field(name, "{{.State.OOMKilled}} {{.State.ExitCode}}") == "true 137"

    def test_init_reaps_and_forwards(self, docker: Docker) -> None:
        first = docker(*RUN, "--init", "busybox", "cat", "/proc/1/comm")
        assert first != "cat"

    def test_labels_and_image_defaults(self, docker: Docker, name: str) -> None:
        docker("create", "--label", "a=b", "--label", "c", "--name", name, "busybox")
        labels = docker.inspect(name)["Config"]["Labels"]
        assert (labels["a"], labels["c"]) == ("b", "")
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
        assert docker.field(name, "{{.State.Status}}") == "created"
        assert docker("start", "-a", name, code=3) == "x"
        assert docker.field(name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 3"

    def test_stop_start_restart(self, docker: Docker, sleeper: str) -> None:
        first = docker.field(sleeper, "{{.State.Pid}}")
        docker("restart", sleeper)
        second = docker.field(sleeper, "{{.State.Pid}}")
        assert first != second
        docker("stop", sleeper)
        assert docker.field(sleeper, "{{.State.Running}} {{.State.Pid}}") == "false 0"
        docker("stop", sleeper)
        docker("start", sleeper)
        assert docker.field(sleeper, "{{.State.Running}}") == "true"
        docker("start", sleeper)

    def test_stop_kills_after_the_timeout(self, docker: Docker, name: str) -> None:
        words = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
        docker("run", "-d", "--name", name, "--network", "none", "busybox", *words)
        docker("stop", "-t", "1", name)
        assert docker.field(name, "{{.State.ExitCode}}") == "137"

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
        assert docker.field(name, "{{.State.ExitCode}}") == "5"

    def test_kill_with_a_signal(self, docker: Docker, complaint: Complaint, sleeper: str) -> None:
        docker("kill", "-s", "TERM", sleeper)
        assert docker("wait", sleeper) == "143"
        code, said = complaint("kill", sleeper)
        assert code == 1
        assert "is not running" in said

    def test_pause(self, docker: Docker, complaint: Complaint, sleeper: str) -> None:
        docker("pause", sleeper)
        assert docker.field(sleeper, "{{.State.Status}} {{.State.Paused}}") == "paused true"
        assert "(Paused)" in docker("ps", "--filter", f"name={sleeper}")
        assert complaint("pause", sleeper)[0] == 1
        assert complaint("exec", sleeper, "true")[0] == 1
        docker("unpause", sleeper)
        assert docker.field(sleeper, "{{.State.Status}}") == "running"

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
        assert docker.field(f"{sleeper}-new", "{{.Name}}") == f"/{sleeper}-new"
        docker("rename", f"{sleeper}-new", sleeper)

    def test_update(self, docker: Docker, sleeper: str) -> None:
        docker(
            "update", "--memory", "32m", "--memory-swap", "64m", "--restart", "on-failure", sleeper
        )
        told = docker.inspect(sleeper)["HostConfig"]
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
        until(lambda: docker.field(name, shown) == "exited 2 3", "two restarts")

    def test_restart_always_until_stopped(self, docker: Docker, name: str, until: Until) -> None:
        always = ("--restart", "always", "--network", "none", "--name", name)
        docker("run", "-d", *always, "busybox", "sleep", "0.05")
        until(lambda: int(docker.field(name, "{{.RestartCount}}")) >= 2, "restarts")
        docker("stop", "-t", "0", name)
        assert docker.field(name, "{{.State.Running}} {{.State.Restarting}}") == "false false"

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
        until(lambda: docker.field(name, shown) == "unhealthy", "unhealthy")
        docker("exec", name, "touch", "/ok")
        until(lambda: docker.field(name, shown) == "healthy", "healthy")
        assert "(healthy)" in docker("ps", "--filter", f"name={name}")

    def test_wait_for_several(self, docker: Docker, sleeper: str, background: Any) -> None:
        waiting = background("wait", sleeper)
        docker("kill", "-s", "INT", sleeper)
        out, _ = waiting.communicate(timeout=120)
        assert out == b"130\n"
