"""Life cycle, hooks, namespaces, propagation and crashes of `skerry-runtime`."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.oci import Runtime, Spec, namespace, poll, stop

from skerry.runtime.commands.spec import example, make_rootless

pytestmark = pytest.mark.root

SLEEP = ["/bin/sleep", "600"]
TRAP = "trap 'echo got {0}; exit 3' {0}; echo ready; while :; do sleep 0.05; done"


def cgroup_folders(name: str) -> list[Path]:
    """Where a container with the default path has its groups."""
    found = [Path("/sys/fs/cgroup/skerry", name), *Path("/sys/fs/cgroup").glob(f"*/skerry/{name}")]
    return [folder for folder in found if folder.is_dir()]


class TestLifeCycle:
    """create, start, state, kill, delete."""

    def test_created_then_running_then_stopped(self, runtime: Runtime) -> None:
        name = runtime.background(["/bin/sh", "-c", "echo ran"], start=False)
        assert runtime.state(name)["status"] == "created"
        assert runtime.log_of(name) == ""
        assert runtime.call("start", name).returncode == 0
        runtime.wait_for(name, "stopped")
        assert runtime.log_of(name) == "ran\n"
        assert runtime.state(name)["pid"] == 0
        assert runtime.call("delete", name).returncode == 0
        assert runtime.call("state", name).returncode == 1

    @pytest.mark.parametrize(
        "command", ["create", "start", "state", "kill", "delete", "exec", "run"]
    )
    def test_needs_an_id(self, runtime: Runtime, command: str) -> None:
        done = runtime.call(command)
        assert done.returncode in (1, 255)
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        "command", ["start", "state", "kill", "delete", "pause", "ps", "update"]
    )
    def test_no_such_container(self, runtime: Runtime, command: str) -> None:
        done = runtime.call(command, "nobody")
        assert done.returncode == 1
        assert "does not exist" in done.stderr

    @pytest.mark.parametrize("name", ["a/b", "..", ".x", "", "a b", "é"])
    def test_ids_that_are_no_names(self, runtime: Runtime, name: str) -> None:
        bundle = runtime.bundle(["/bin/true"])
        done = runtime.call("run", "-b", str(bundle), name)
        assert done.returncode == 1
        assert "invalid container ID" in done.stderr

    def test_what_the_runtime_ignores_the_program_heeds(self, runtime: Runtime) -> None:
        bundle = runtime.bundle(["/bin/grep", "-E", "SigIgn|SigBlk", "/proc/self/status"])
        words = ("--root", str(runtime.root), "run", "-b", str(bundle), runtime.new_id())
        ignore = [f"--ignore-signal={name}" for name in ("HUP", "INT", "QUIT", "RTMIN+4")]
        done = subprocess.run(
            ["env", *ignore, "--block-signal=TERM", runtime.program, *words],
            capture_output=True,
            timeout=120,
            check=True,
        )
        # Here and with runc.
        assert [int(line.split()[1], 16) for line in done.stdout.splitlines()] == [0, 0]

    def test_an_id_is_unique(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        pid = runtime.state(name)["pid"]
        done = runtime.call("create", "-b", str(runtime.bundle(SLEEP)), name)
        assert done.returncode == 1
        assert "already exists" in done.stderr
        assert runtime.state(name)["pid"] == pid
        assert cgroup_folders(name)

    def test_start_works_once(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        done = runtime.call("start", name)
        assert done.returncode == 1
        runtime.call("kill", name, "KILL")
        runtime.wait_for(name, "stopped")
        done = runtime.call("start", name)
        assert done.returncode == 1
        assert "stopped" in done.stderr

    def test_a_running_container_is_not_deleted(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        done = runtime.call("delete", name)
        assert done.returncode == 1
        assert "not stopped" in done.stderr
        assert runtime.state(name)["status"] == "running"

    def test_delete_removes_what_create_made_and_nothing_else(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        made = cgroup_folders(name)
        assert made
        beside = made[0].parent / f"{name}-beside"
        beside.mkdir()
        try:
            assert runtime.call("delete", "--force", name).returncode == 0
            assert not cgroup_folders(name)
            assert beside.is_dir()
            assert runtime.rootfs.is_dir()
        finally:
            beside.rmdir()

    def test_forced_delete_of_nothing_succeeds(self, runtime: Runtime) -> None:
        assert runtime.call("delete", "-f", "nobody").returncode == 0

    @pytest.mark.parametrize("name", ["TERM", "USR1", "SIGUSR2", "2"])
    def test_signals_arrive(self, runtime: Runtime, name: str) -> None:
        trap = signal.Signals(2).name if name == "2" else name
        script = TRAP.format(trap.removeprefix("SIG"))
        container = runtime.background(["/bin/sh", "-c", script])
        poll(lambda: "ready" in runtime.log_of(container), "the trap")
        assert runtime.call("kill", container, name).returncode == 0
        runtime.wait_for(container, "stopped")
        assert "got" in runtime.log_of(container)

    def test_kill_of_a_stopped_container_fails_and_has_no_effect(self, runtime: Runtime) -> None:
        name = runtime.background(["/bin/true"])
        runtime.wait_for(name, "stopped")
        done = runtime.call("kill", name, "KILL")
        assert done.returncode == 1
        assert "not running" in done.stderr
        assert runtime.state(name)["status"] == "stopped"

    def test_an_unknown_signal_has_no_effect(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        assert runtime.call("kill", name, "NOSUCH").returncode == 1
        assert runtime.state(name)["status"] == "running"

    def test_a_created_container_can_be_killed(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP, start=False)
        assert runtime.call("kill", name, "KILL").returncode == 0
        runtime.wait_for(name, "stopped")
        assert runtime.call("delete", name).returncode == 0

    def test_pause_and_resume(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        assert runtime.call("pause", name).returncode == 0
        assert runtime.state(name)["status"] == "paused"
        assert runtime.call("exec", name, "true").returncode == 255
        assert runtime.call("resume", name).returncode == 0
        assert runtime.state(name)["status"] == "running"
        assert runtime.call("resume", name).returncode == 1

    def test_a_paused_container_can_be_killed(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        runtime.call("pause", name)
        assert runtime.call("kill", name, "KILL").returncode == 0
        runtime.wait_for(name, "stopped")

    def test_pid_file_and_list_and_ps(self, runtime: Runtime) -> None:
        name = runtime.new_id()
        file = runtime.folder / "pid"
        bundle = runtime.bundle(SLEEP)
        done = subprocess.run(
            [
                *(runtime.program, "--root", str(runtime.root), "run", "-d"),
                *("--pid-file", str(file), "-b", str(bundle), name),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0
        pid = runtime.state(name)["pid"]
        assert file.read_text() == str(pid)
        (row,) = json.loads(runtime.call("list", "--format", "json").stdout)
        assert (row["id"], row["pid"], row["status"]) == (name, pid, "running")
        assert runtime.call("list", "-q").stdout == f"{name}\n"
        assert json.loads(runtime.call("ps", "-f", "json", name).stdout) == [pid]
        assert "sleep 600" in runtime.call("ps", name).stdout

    def test_exit_code_is_the_programs(self, runtime: Runtime) -> None:
        assert runtime.shell("exit 42").returncode == 42
        assert runtime.shell("kill -TERM $$; sleep 5", _no_pid_namespace).returncode == 143

    def test_logs_in_json_for_those_who_drive_us(self, runtime: Runtime) -> None:
        log = runtime.folder / "log.json"
        bundle = runtime.bundle(["/nowhere"])
        options = ("--log", str(log), "--log-format", "json")
        done = runtime.call("create", "-b", str(bundle), runtime.new_id(), options=options)
        assert done.returncode == 1
        (line,) = map(json.loads, log.read_text().splitlines())
        assert line["level"] == "error"
        assert "no such file or directory" in line["msg"]


def _no_pid_namespace(spec: Spec) -> None:
    spec["linux"]["namespaces"].remove({"type": "pid"})


class TestHooks:
    """Order, places, state on standard input, failures, time limits."""

    KINDS = (
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    )

    def test_order_state_and_namespaces(self, runtime: Runtime) -> None:
        out = runtime.folder / "out"
        rootfs = runtime.own_rootfs()
        (rootfs / "out").mkdir()
        out.mkdir()
        body = (
            "#!/bin/sh\ncat > {0}/$1.json\n"
            "readlink /proc/self/ns/mnt > {0}/$1.mnt\necho $1 >> {0}/order\n"
        )
        (rootfs / "bin/hook").write_text(body.format("/out"))
        (rootfs / "bin/hook").chmod(0o755)
        host = runtime.folder / "hook"
        host.write_text(body.format(out))
        host.chmod(0o755)

        def change(spec: Spec) -> None:
            spec["root"] = {"path": str(rootfs)}
            spec["mounts"].append(
                {"destination": "/out", "source": str(out), "options": ["bind", "rw"]}
            )
            spec["hooks"] = {
                kind: [
                    {
                        "path": "/bin/hook" if kind == "startContainer" else str(host),
                        "args": ["hook", kind],
                        "env": ["PATH=/usr/bin:/bin"],
                        "timeout": 30,
                    }
                ]
                for kind in self.KINDS
            }
            spec["annotations"] = {"k": "v"}

        name = runtime.background(
            ["/bin/sh", "-c", "echo program >> /out/order; sleep 600"], change
        )
        poll(lambda: "program" in (out / "order").read_text(), "the program")
        poll(lambda: "poststart" in (out / "order").read_text(), "the hook")
        pid = runtime.state(name)["pid"]
        inside = namespace(pid, "mnt")
        assert runtime.call("delete", "--force", name).returncode == 0
        order = (out / "order").read_text().split()
        assert order[:4] == ["prestart", "createRuntime", "createContainer", "startContainer"]
        assert sorted(order[4:]) == ["poststart", "poststop", "program"]
        assert order[-1] == "poststop"
        statuses = {}
        for kind in self.KINDS:
            state = json.loads((out / f"{kind}.json").read_text())
            statuses[kind] = state["status"]
            assert state["id"] == name
            assert state["annotations"] == {"k": "v"}
            assert state["bundle"].startswith(str(runtime.folder))
            if kind != "poststop":
                assert state["pid"] == pid
            where = (out / f"{kind}.mnt").read_text().strip()
            expected = (
                inside
                if kind in ("createContainer", "startContainer")
                else namespace("self", "mnt")
            )
            assert where == expected, kind
        assert statuses == {
            "prestart": "creating",
            "createRuntime": "creating",
            "createContainer": "creating",
            "startContainer": "created",
            "poststart": "running",
            "poststop": "stopped",
        }

    @pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
    def test_a_failing_hook_ends_create(self, runtime: Runtime, kind: str) -> None:
        hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo sorry >&2; exit 3"]}
        done = runtime.run(["/bin/echo", "ran"], lambda s: s.update(hooks={kind: [hook]}))
        assert done.returncode == 1
        assert "ran" not in done.stdout
        assert kind in done.stderr
        assert "exit status 3: sorry" in done.stderr
        assert runtime.call("list", "-q").stdout == ""

    def test_a_failing_start_hook_ends_start(self, runtime: Runtime) -> None:
        hook = {"path": "/bin/false"}
        name = runtime.background(
            ["/bin/echo", "ran"], lambda s: s.update(hooks={"startContainer": [hook]}), start=False
        )
        done = runtime.call("start", name)
        assert done.returncode == 1
        assert "startContainer" in done.stderr
        runtime.wait_for(name, "stopped")
        assert runtime.log_of(name) == ""

    def test_a_hook_that_fails_after_the_start_ends_the_container(self, runtime: Runtime) -> None:
        mark = runtime.folder / "after"
        kinds = {
            "poststart": [{"path": "/bin/false"}],
            "poststop": [{"path": "/bin/touch", "args": ["touch", str(mark)]}],
        }
        done = runtime.shell("sleep 600", lambda s: s.update(hooks=kinds))
        assert done.returncode == 1
        assert "poststart #0 (/bin/false): exit status 1" in done.stderr
        assert mark.exists()
        name = runtime.background(
            ["/bin/sleep", "600"], lambda s: s.update(hooks=kinds), start=False
        )
        assert runtime.call("start", name).returncode == 1
        runtime.wait_for(name, "stopped")

    def test_a_failing_hook_after_the_end_is_a_warning(self, runtime: Runtime) -> None:
        mark = runtime.folder / "second"
        hooks = [{"path": "/bin/false"}, {"path": "/bin/touch", "args": ["touch", str(mark)]}]
        done = runtime.shell("echo ran", lambda s: s.update(hooks={"poststop": hooks}))
        assert done.returncode == 0
        assert done.stdout == "ran\n"
        assert "warning" in done.stderr
        assert mark.exists()

    def test_a_hook_that_takes_too_long_is_killed(self, runtime: Runtime) -> None:
        hook = {"path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1}
        done = runtime.run(["/bin/true"], lambda s: s.update(hooks={"createRuntime": [hook]}))
        assert done.returncode == 1
        assert "within 1 s" in done.stderr


class TestNamespaces:
    """New, inherited, and joined by path."""

    FILES = (("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt"))

    def test_listed_ones_are_new_and_others_are_inherited(self, runtime: Runtime) -> None:
        def change(spec: Spec) -> None:
            kinds = ("mount", "pid", "network", "uts", "ipc", "cgroup", "time")
            spec["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
            spec["linux"]["timeOffsets"] = {"boottime": {"secs": 100000}, "monotonic": {"secs": 5}}

        name = runtime.background(SLEEP, change)
        pid = runtime.state(name)["pid"]
        for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup", "time"):
            assert namespace(pid, kind) != namespace("self", kind), kind
        assert namespace(pid, "user") == namespace("self", "user")
        offsets = Path(f"/proc/{pid}/timens_offsets").read_text().split()
        assert offsets == ["monotonic", "5", "0", "boottime", "100000", "0"]

    @pytest.mark.parametrize(("kind", "file"), FILES)
    def test_one_that_is_not_listed_is_inherited(
        self, runtime: Runtime, kind: str, file: str
    ) -> None:
        def change(spec: Spec) -> None:
            spec["linux"]["namespaces"].remove({"type": kind})
            spec["root"]["readonly"] = False
            if kind == "uts":
                del spec["hostname"]
            if kind == "network":
                spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "sysfs"]
            if kind == "mount":
                spec["mounts"] = []
                spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []

        name = runtime.background(SLEEP, change)
        pid = runtime.state(name)["pid"]
        assert namespace(pid, file) == namespace("self", file)
        # The root is the container's even where the mount namespace is the host's.
        seen = runtime.call("exec", name, "stat", "-c", "%i", "/")
        assert seen.stdout.strip() == str(os.stat(f"/proc/{pid}/root/").st_ino), seen.stderr

    def test_joined_by_path(self, runtime: Runtime) -> None:
        first = runtime.background(SLEEP)
        target = runtime.state(first)["pid"]

        def change(spec: Spec) -> None:
            spec["hostname"] = ""
            for entry in spec["linux"]["namespaces"]:
                file = dict(self.FILES).get(entry["type"])
                if file and file != "mnt":
                    entry["path"] = f"/proc/{target}/ns/{file}"

        second = runtime.background(SLEEP, change)
        pid = runtime.state(second)["pid"]
        for _, file in self.FILES:
            same = namespace(pid, file) == namespace(target, file)
            assert same == (file != "mnt"), file
        assert runtime.call("exec", second, "hostname").stdout == "bundle\n"

    def test_user_namespace_with_maps(self, runtime: Runtime) -> None:
        rows = [{"containerID": 0, "hostID": 100000, "size": 1000}]

        def change(spec: Spec) -> None:
            spec["linux"]["namespaces"].append({"type": "user"})
            spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = rows
            spec["process"]["oomScoreAdj"] = 100

        script = "cd /proc/self; cat uid_map gid_map; id -u; cat oom_score_adj; sleep 600"
        name = runtime.background(["/bin/sh", "-c", script], change)
        poll(lambda: runtime.log_of(name).endswith("100\n"), "the script")
        assert runtime.log_of(name).split() == ["0", "100000", "1000"] * 2 + ["0", "100"]
        pid = runtime.state(name)["pid"]
        assert os.stat(f"/proc/{pid}").st_uid == 100000
        done = runtime.call("exec", name, "id", "-u")
        assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
        assert runtime.call("exec", name, "cat", "/dev/null").returncode == 0

    def test_a_joined_user_namespace_owns_the_new_ones(self, runtime: Runtime) -> None:
        rows = [{"containerID": 0, "hostID": 100000, "size": 1000}]

        def own(spec: Spec) -> None:
            spec["linux"]["namespaces"].append({"type": "user"})
            spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = rows

        first = runtime.background(SLEEP, own)
        target = runtime.state(first)["pid"]

        def joined(spec: Spec) -> None:
            spec["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{target}/ns/user"})

        second = runtime.background(SLEEP, joined)
        pid = runtime.state(second)["pid"]
        assert namespace(pid, "user") == namespace(target, "user")
        assert namespace(pid, "net") != namespace(target, "net")
        assert (
            runtime.call("exec", second, "ip", "link", "add", "d0", "type", "dummy").returncode != 0
        )

    def test_a_joined_network_outside_a_new_user_namespace(self, runtime: Runtime) -> None:
        first = runtime.background(SLEEP)
        target = runtime.state(first)["pid"]
        rows = [{"containerID": 0, "hostID": 100000, "size": 1000}]

        def change(spec: Spec) -> None:
            spec["linux"]["namespaces"].append({"type": "user"})
            spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = rows
            spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "sysfs"]
            for entry in spec["linux"]["namespaces"]:
                if entry["type"] == "network":
                    entry["path"] = f"/proc/{target}/ns/net"

        second = runtime.background(SLEEP, change)
        pid = runtime.state(second)["pid"]
        assert namespace(pid, "net") == namespace(target, "net")
        assert namespace(pid, "user") != namespace("self", "user")


class TestMounts:
    """Binds, whole trees, propagation, id mapping."""

    def test_bind_of_folder_and_file_makes_the_target(self, runtime: Runtime) -> None:
        source = runtime.folder / "source"
        source.mkdir()
        (source / "file").write_text("content\n")

        def change(spec: Spec) -> None:
            spec["root"] = {"path": str(runtime.own_rootfs())}
            spec["mounts"] += [
                {"destination": "/new/dir", "source": str(source), "options": ["bind", "ro"]},
                {"destination": "/new/file", "source": str(source / "file"), "options": ["bind"]},
            ]

        script = "cd /new; cat dir/file file; echo x >> file; touch dir/x 2>&1 | grep -c Read-only"
        assert runtime.output(script, change) == "content\ncontent\n1\n"
        assert (source / "file").read_text() == "content\nx\n"

    @pytest.mark.parametrize(
        ("option", "word", "deep"),
        [("ro", "ro", False), ("rro", "ro", True), ("rnosuid", "nosuid", True),
         ("rnoexec", "noexec", True), ("rnodev", "nodev", True), ("rnoatime", "noatime", True)],
    )  # fmt: skip
    def test_attributes_of_the_top_and_of_the_tree(
        self, runtime: Runtime, option: str, word: str, deep: bool
    ) -> None:
        source = runtime.folder / "tree"
        (source / "below").mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(source / "below")], check=True)
        try:

            def change(spec: Spec) -> None:
                options = ["rbind", option]
                spec["mounts"].append(
                    {"destination": "/tmp", "source": str(source), "options": options}
                )

            shown = runtime.output(
                "grep -e ' /tmp ' -e ' /tmp/below ' /proc/self/mountinfo", change
            )
            top, below = sorted((line.split()[4], line.split()[5]) for line in shown.splitlines())
            assert word in top[1].split(",")
            assert (word in below[1].split(",")) == deep
        finally:
            subprocess.run(["umount", str(source / "below")], check=True)

    @pytest.mark.parametrize(
        ("name", "tag"),
        [
            ("private", ""),
            ("slave", "master:"),
            ("shared", "shared:"),
            ("unbindable", "unbindable"),
        ],
    )
    def test_root_propagation(self, runtime: Runtime, name: str, tag: str) -> None:
        shared = runtime.folder / "shared"
        shared.mkdir()
        subprocess.run(["mount", "--bind", str(shared), str(shared)], check=True)
        subprocess.run(["mount", "--make-shared", str(shared)], check=True)
        try:
            shutil.copytree(runtime.rootfs, shared / "rootfs", symlinks=True)

            def change(spec: Spec) -> None:
                spec["root"] = {"path": str(shared / "rootfs")}
                spec["linux"]["rootfsPropagation"] = name

            shown = runtime.output("grep ' / / \\| / rw' /proc/self/mountinfo | head -n1", change)
            optional = shown.split(" - ")[0].split()[6:]
            assert any(word.startswith(tag) for word in optional) if tag else optional == []
            assert runtime.output("mount -t tmpfs none /tmp 2>&1 | wc -l", change)
        finally:
            subprocess.run(["umount", "-l", str(shared)], check=True)

    def test_nothing_stays_mounted_on_the_host(self, runtime: Runtime) -> None:
        before = Path("/proc/self/mountinfo").read_text().count(str(runtime.folder))
        assert runtime.shell("true").returncode == 0
        assert Path("/proc/self/mountinfo").read_text().count(str(runtime.folder)) == before

    def test_idmapped_bind(self, runtime: Runtime) -> None:
        source = runtime.folder / "mapped"
        source.mkdir()
        (source / "file").touch()
        os.chown(source / "file", 1000, 1001)

        def change(spec: Spec) -> None:
            spec["mounts"].append(
                {
                    "destination": "/tmp",
                    "source": str(source),
                    "options": ["bind", "idmap"],
                    "uidMappings": [{"containerID": 1000, "hostID": 5, "size": 1}],
                    "gidMappings": [{"containerID": 1001, "hostID": 6, "size": 1}],
                }
            )

        assert runtime.output("stat -c %u:%g /tmp/file", change) == "5:6\n"

    def test_no_pivot(self, runtime: Runtime) -> None:
        bundle = runtime.bundle(["/bin/ls", "/"])
        done = runtime.call("run", "--no-pivot", "-b", str(bundle), runtime.new_id())
        assert done.returncode == 0, done.stderr
        assert "home" not in done.stdout.split()
        assert "bin" in done.stdout.split()


class TestTerminal:
    """The console socket and the terminal in the foreground."""

    def test_console_socket_gets_the_master(self, runtime: Runtime, short_tmp: Path) -> None:
        path = str(short_tmp / "console")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(120)

        def change(spec: Spec) -> None:
            spec["process"]["terminal"] = True
            spec["process"]["consoleSize"] = {"height": 33, "width": 77}

        script = "tty; stty size; test -c /dev/console && echo console; sleep 600"
        bundle = runtime.bundle(["/bin/sh", "-c", script], change)
        name = runtime.new_id()
        options = ("create", "--console-socket", path, "-b", str(bundle), name)
        done = subprocess.run(
            [runtime.program, "--root", str(runtime.root), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0
        peer, _ = listener.accept()
        data, fds, _, _ = socket.recv_fds(peer, 1000, 1)
        peer.close()
        listener.close()
        assert data.startswith(b"/dev/pts/")
        assert runtime.call("start", name).returncode == 0
        shown = b""
        while b"console" not in shown:
            shown += os.read(fds[0], 1000)
        os.close(fds[0])
        assert shown.split() == [b"/dev/pts/0", b"33", b"77", b"console"]

    def test_detached_without_console_socket(self, runtime: Runtime) -> None:
        bundle = runtime.bundle(SLEEP, lambda s: s["process"].update(terminal=True))
        done = runtime.call("create", "-b", str(bundle), runtime.new_id())
        assert done.returncode == 1
        assert "console socket" in done.stderr

    def test_terminal_in_the_foreground(self, runtime: Runtime) -> None:
        done = runtime.shell("tty; exit 4", lambda s: s["process"].update(terminal=True))
        assert done.stdout == "/dev/pts/0\r\n"
        assert done.returncode == 4


class TestExec:
    """Further processes."""

    def test_options(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        script = "pwd; echo $A; id -u; id -g; grep Groups /proc/self/status; exit 9"
        words = [
            "--cwd",
            "/tmp",
            "-e",
            "A=1",
            "-u",
            "3:4",
            "-g",
            "7",
            name,
            "/bin/sh",
            "-c",
            script,
        ]
        done = runtime.call("exec", *words)
        assert done.stdout == "/tmp\n1\n3\n4\nGroups:\t7 \n"
        assert done.returncode == 9

    def test_it_is_in_all_namespaces_and_the_cgroup(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        pid = runtime.state(name)["pid"]
        kinds = ("pid", "net", "ipc", "uts", "mnt", "cgroup")
        script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
        done = runtime.call("exec", name, "/bin/sh", "-c", script)
        assert done.stdout.split() == [namespace(pid, kind) for kind in kinds]
        seen = runtime.call("exec", name, "cat", "/proc/self/cgroup").stdout
        assert seen == runtime.call("exec", name, "cat", "/proc/1/cgroup").stdout

    def test_process_file_and_pid_file(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        file, pid_file = runtime.folder / "process.json", runtime.folder / "pid"
        file.write_text(json.dumps({"args": ["/bin/sleep", "600"], "cwd": "/", "user": {"uid": 1}}))
        words = ["--process", str(file), "--detach", "--pid-file", str(pid_file), name]
        done = subprocess.run(
            [runtime.program, "--root", str(runtime.root), "exec", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0
        pid = int(pid_file.read_text())
        assert os.stat(f"/proc/{pid}").st_uid == 1
        assert sorted(json.loads(runtime.call("ps", "-f", "json", name).stdout)) == sorted(
            [pid, runtime.state(name)["pid"]]
        )

    def test_it_gets_the_privileges_of_the_configuration(self, runtime: Runtime) -> None:
        seccomp = {"defaultAction": "SCMP_ACT_ALLOW"}
        name = runtime.background(SLEEP, lambda s: s["linux"].update(seccomp=seccomp))
        script = "grep -e CapEff -e NoNewPrivs -e Seccomp: /proc/self/status | cut -f2"
        own = runtime.call("exec", name, "/bin/sh", "-c", script.replace("self", "1")).stdout
        assert runtime.call("exec", name, "/bin/sh", "-c", script).stdout == own
        more = runtime.call("exec", "--cap", "CAP_CHOWN", name, "/bin/sh", "-c", script).stdout
        assert int(more.split()[0], 16) == int(own.split()[0], 16) | 1

    @pytest.mark.parametrize(
        ("program", "message"),
        [
            ("nosuch", "executable file not found in $PATH"),
            ("/nosuch", "no such file or directory"),
            ("/etc/passwd", "permission denied"),
            ("/etc", "is a directory"),
        ],
    )
    def test_programs_that_are_none(self, runtime: Runtime, program: str, message: str) -> None:
        name = runtime.background(SLEEP)
        done = runtime.call("exec", name, program)
        assert done.returncode == 255
        assert message in done.stderr
        assert done.stderr.count("\n") == 1

    def test_stopped(self, runtime: Runtime) -> None:
        name = runtime.background(["/bin/true"])
        runtime.wait_for(name, "stopped")
        assert "stopped container" in runtime.call("exec", name, "true").stderr

    def test_terminal(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        done = runtime.call("exec", "-t", name, "/bin/sh", "-c", "tty; exit 2")
        assert (done.returncode, done.stdout) == (2, "/dev/pts/0\r\n")


class TestDescriptors:
    """Nothing of the host's is reachable by a descriptor."""

    LIST = (
        "/bin/sh",
        "-c",
        "ls -l /proc/self/fd | sed -n 's/.* -> //p' | grep -v -e /proc/ -e /dev/null",
    )

    def test_only_three(self, runtime: Runtime) -> None:
        with (runtime.folder / "leak").open("w") as leak:
            done = runtime.run(self.LIST, pass_fds=[leak.fileno()])
        assert all(line.startswith("pipe:") for line in done.stdout.split("\n") if line)
        assert len(done.stdout.split()) == 3

    def test_preserved(self, runtime: Runtime) -> None:
        bundle = runtime.bundle(["/bin/sh", "-c", "echo hello >&3"])
        read, write = os.pipe()
        command = [runtime.program, "--root", str(runtime.root), "run", "--preserve-fds", "1"]
        command += ["-b", str(bundle), runtime.new_id()]
        script = f"import os; os.dup2({write}, 3); os.execv({command[0]!r}, {command!r})"
        subprocess.run([sys.executable, "-c", script], pass_fds=[write], timeout=120, check=True)
        os.close(write)
        assert os.read(read, 100) == b"hello\n"
        os.close(read)

    @pytest.mark.parametrize(
        ("count", "why"), [("4", "preserved descriptor"), ("-1", "must not be negative")]
    )
    def test_missing_preserved(self, runtime: Runtime, count: str, why: str) -> None:
        done = runtime.call(
            "run", "--preserve-fds", count, "-b", str(runtime.bundle(["x"])), runtime.new_id()
        )
        assert done.returncode == 1
        assert why in done.stderr

    @pytest.mark.parametrize("number", range(3, 10))
    def test_working_folder_in_a_descriptor(self, runtime: Runtime, number: int) -> None:
        """CVE-2024-21626."""
        cwd = f"/proc/self/fd/{number}"
        done = runtime.run(["/bin/pwd"], lambda s: s["process"].update(cwd=cwd))
        assert done.returncode == 1
        assert done.stdout == ""


class TestCgroups:
    """Limits, their update, and counters."""

    @staticmethod
    def _value(name: str, v1: str, v2: str) -> str:
        for folder in cgroup_folders(name):
            for file in (v1, v2):
                if (folder / file).exists():
                    return (folder / file).read_text().strip()
        raise AssertionError(f"neither {v1} nor {v2}")

    def test_limits_and_update(self, runtime: Runtime) -> None:
        resources = {
            "memory": {"limit": 64 << 20},
            "pids": {"limit": 50},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
            "devices": [{"allow": False, "access": "rwm"}],
        }
        name = runtime.background(SLEEP, lambda s: s["linux"].update(resources=resources))
        assert self._value(name, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
        assert self._value(name, "pids.max", "pids.max") == "50"
        assert self._value(name, "cpuset.cpus", "cpuset.cpus") == "0"
        done = runtime.call("update", "--memory", "32m", "--pids-limit", "20", name)
        assert done.returncode == 0, done.stderr
        assert self._value(name, "memory.limit_in_bytes", "memory.max") == str(32 << 20)
        change = json.dumps({"pids": {"limit": 30}, "cpu": {"shares": 0}}).encode()
        assert runtime.call("update", "-r", "-", name, stdin=change).returncode == 0
        assert self._value(name, "pids.max", "pids.max") == "30"

    def test_path_is_the_configurations(self, runtime: Runtime) -> None:
        above = f"/{runtime.new_id()}"
        path = f"{above}/inner"
        name = runtime.background(SLEEP, lambda s: s["linux"].update(cgroupsPath=path))
        seen = runtime.call("exec", name, "sh", "-c", "cat /proc/self/cgroup | wc -l")
        assert int(seen.stdout) > 0
        assert runtime.call("delete", "--force", name).returncode == 0
        left = [Path(f"/sys/fs/cgroup{above}"), *Path("/sys/fs/cgroup").glob(f"*{above}")]
        left = [folder for folder in left if folder.is_dir()]
        assert left, "the group above is not the runtime's to remove"
        for folder in left:
            assert not (folder / "inner").exists()
            folder.rmdir()

    def test_a_group_in_use_is_left_alone(self, runtime: Runtime) -> None:
        path = f"/skerry/{runtime.new_id()}"
        first = runtime.background(SLEEP, lambda s: s["linux"].update(cgroupsPath=path))
        done = runtime.run(["/bin/true"], lambda s: s["linux"].update(cgroupsPath=path))
        assert done.returncode == 1
        assert "processes" in done.stderr
        assert runtime.state(first)["status"] == "running"

    def test_events(self, runtime: Runtime) -> None:
        name = runtime.background(SLEEP)
        event = json.loads(runtime.call("events", "--stats", name).stdout)
        assert (event["type"], event["id"]) == ("stats", name)
        assert event["data"]["pids"]["current"] == 1
        assert event["data"]["cpu"]["usage"]["total"] > 0
        watcher = subprocess.Popen(
            [runtime.program, "--root", str(runtime.root), "events", "--interval", "20ms", name],
            stdout=subprocess.PIPE,
        )
        assert watcher.stdout is not None
        assert json.loads(watcher.stdout.readline())["type"] == "stats"
        runtime.call("kill", name, "KILL")
        watcher.stdout.read()
        assert watcher.wait(120) == 0

    def test_out_of_memory(self, runtime: Runtime) -> None:
        limit = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
        done = runtime.shell(
            "head -c 64m /dev/zero | tail -n1 | wc -c; exit 0",
            lambda s: s["linux"].update(resources=limit),
        )
        assert done.stdout.strip() != str(64 << 20)


class TestCrash:
    """The runtime is killed at any moment; delete --force removes the rest."""

    @pytest.mark.parametrize("moment", range(8))
    def test_killed_while_creating(self, runtime: Runtime, moment: int) -> None:
        hooks = {
            "createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.2"]}],
            "createContainer": [{"path": "/bin/sleep", "args": ["sleep", "0.2"]}],
        }
        bundle = runtime.bundle(SLEEP, lambda s: s.update(hooks=hooks))
        name = runtime.new_id()
        maker = subprocess.Popen(
            [runtime.program, "--root", str(runtime.root), "run", "-b", str(bundle), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            maker.wait(0.03 + moment * 0.07)
        except subprocess.TimeoutExpired:
            stop(maker)
        if (runtime.root / name).exists():
            done = runtime.call("delete", "--force", name)
            assert done.returncode == 0, done.stderr
        assert not cgroup_folders(name)
        assert runtime.call("list", "-q").stdout == ""
        assert (
            all(entry == ".seccomp" for entry in os.listdir(runtime.root))
            if runtime.root.exists()
            else True
        )

    def test_killed_in_the_foreground(self, runtime: Runtime) -> None:
        name = runtime.new_id()
        bundle = runtime.bundle(SLEEP)
        maker = subprocess.Popen(
            [runtime.program, "--root", str(runtime.root), "run", "-b", str(bundle), name],
            stdin=subprocess.DEVNULL,
        )
        poll(lambda: name in runtime.call("list", "-q").stdout, "the container")
        runtime.wait_for(name, "running")
        stop(maker)
        assert runtime.state(name)["status"] == "running"
        assert runtime.call("delete", "--force", name).returncode == 0
        assert not cgroup_folders(name)


def test_spec_makes_a_bundle_that_runs(runtime: Runtime) -> None:
    folder = runtime.folder / "fresh"
    folder.mkdir()
    assert runtime.call("spec", "--bundle", str(folder)).returncode == 0
    assert runtime.call("spec", "--bundle", str(folder)).returncode == 1
    (folder / "rootfs").symlink_to(runtime.rootfs)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["process"]["args"] = ["/bin/echo", "ran"]
    config["process"]["terminal"] = False
    (folder / "config.json").write_text(json.dumps(config))
    done = runtime.call("run", "-b", str(folder), runtime.new_id())
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


def test_features_and_version(runtime: Runtime) -> None:
    known = json.loads(runtime.call("features").stdout)
    assert {"rro", "tmpcopyup", "idmap"} <= set(known["mountOptions"])
    assert "time" in known["linux"]["namespaces"]
    assert runtime.call("--version").stdout.startswith("skerry-runtime version ")
    assert "update" in runtime.call("--help").stdout


class TestWithoutRoot:
    """A user without privileges, in a user namespace with one id."""

    def test_run_and_exec(self, runtime: Runtime, short_tmp: Path) -> None:
        if not all(folder.stat().st_mode & 0o001 for folder in Path(runtime.program).parents):
            pytest.skip("needs a checkout that other users can enter")
        user = 65534
        shutil.copytree(runtime.rootfs, short_tmp / "rootfs", symlinks=True)
        config = example()
        make_rootless(config, user, user)
        config["process"] |= {"terminal": False, "args": ["/bin/sleep", "600"]}
        (short_tmp / "config.json").write_text(json.dumps(config))
        short_tmp.chmod(0o755)
        for path in (short_tmp, short_tmp / "config.json"):
            os.chown(path, user, user)

        def call(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [runtime.program, "--root", str(short_tmp / "state"), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                # A container in the background keeps what it inherits open.
                stderr=subprocess.DEVNULL,
                user=user,
                group=user,
                extra_groups=[],
                cwd=short_tmp,
                text=True,
                timeout=120,
                check=False,
            )

        made = subprocess.run(
            [runtime.program, "--root", str(short_tmp / "state"), "run", "-d", "rootless"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=[],
            cwd=short_tmp,
            timeout=120,
            check=False,
        )
        assert made.returncode == 0
        try:
            pid = json.loads(call("state", "rootless").stdout)["pid"]
            assert os.stat(f"/proc/{pid}").st_uid == user
            assert call("exec", "rootless", "sh", "-c", "id -u; echo $$ >/dev/null").stdout == "0\n"
            assert call("exec", "rootless", "readlink", "/proc/self/ns/pid").stdout.strip() == (
                namespace(pid, "pid")
            )
        finally:
            assert call("delete", "--force", "rootless").returncode == 0


def test_seccomp_notifications_reach_the_agent(runtime: Runtime, short_tmp: Path) -> None:
    path = str(short_tmp / "agent")
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(path)
    agent.listen(1)
    agent.settimeout(120)
    seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "data",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }
    script = "mkdir /tmp/x 2>&1; sleep 600"
    tmp = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}

    def change(spec: Spec) -> None:
        spec["linux"]["seccomp"] = seccomp
        spec["mounts"].append(tmp)

    name = runtime.background(["/bin/sh", "-c", script], change)
    peer, _ = agent.accept()
    data, fds, _, _ = socket.recv_fds(peer, 65536, 4)
    peer.close()
    agent.close()
    told = json.loads(data)
    assert told["fds"] == ["seccompFd"]
    assert told["pid"] == runtime.state(name)["pid"]
    assert told["metadata"] == "data"
    assert told["state"]["id"] == name
    assert runtime.log_of(name) == ""
    # The call waits for an answer; when nobody can give one any more, it fails.
    os.close(fds[0])
    poll(lambda: "not implemented" in runtime.log_of(name), "the refused mkdir")
