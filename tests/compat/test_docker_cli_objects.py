"""The docker command line against the engine: files, images, looking, the system."""

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("leaves_nothing")]

Docker = Any
Complaint = Callable[..., tuple[int, str]]
Until = Callable[..., None]

RUN = ("run", "--rm", "--network", "none")


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

    def test_copy_sees_the_mounts_of_a_stopped_container(
        self, docker: Docker, complaint: Complaint, daemon: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "bound").write_text("bound")
        mounts = (
            *("--mount", "type=volume,src=cp-vol,dst=/part,volume-subpath=sub"),
            *("--mount", "type=image,src=busybox,dst=/img"),
            *("-v", "cp-vol:/out/whole", "-v", f"{tmp_path}/bound:/bound:ro", "--tmpfs", "/tm"),
        )
        shell = (*RUN, "-v", "cp-vol:/v", "busybox", "sh", "-c")
        made = "mkdir -p /v/sub; echo one >/v/sub/file; ln -s /etc/hostname /v/sub/link"
        docker(*shell, f"{made}; mknod /v/null c 1 3")
        linked = ("sh", "-c", "ln -sf /part/file /to")
        name = docker("create", "--network", "none", *mounts, "busybox", *linked)

        def listed(path: str) -> set[str]:
            done = daemon.docker("cp", f"{name}:{path}", str(tmp_path / "got"))
            assert done.returncode == 0
            got = tmp_path / "got"
            found = {str(each.relative_to(got)) for each in got.rglob("*")} or {got.read_text()}
            shutil.rmtree(got) if got.is_dir() else got.unlink()
            return found

        try:
            for attempt in range(2):
                assert listed("/part/") >= {"file", "link"}
                assert listed("/out") >= {"whole/sub/file", "whole/null"}
                assert listed("/bound") == {"bound"}
                assert "busybox" in listed("/img/bin")
                assert complaint("cp", str(tmp_path), f"{name}:/img/")[0] == 1
                docker("cp", str(tmp_path / "bound"), f"{name}:/part/{attempt}")
                docker("start", "-a", name)
            docker("cp", "-L", f"{name}:/to", str(tmp_path / "followed"))
            assert (tmp_path / "followed").read_text() == "one\n", "a link into a volume"
            assert docker(*shell, "ls /v/sub").split() == ["0", "1", "file", "link"]
        finally:
            docker("rm", "-f", name)
            docker("volume", "rm", "cp-vol")

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
        told = docker.inspect(sleeper)
        assert told["State"]["Running"] is True
        assert told["Config"]["Image"] == "busybox"
        assert told["Path"] == "sleep"
        assert told["Args"] == ["1000"]
        assert told["HostConfig"]["NetworkMode"] == "none"
        assert docker.field(sleeper, "{{.Config.Cmd}}") == "[sleep 1000]"
        assert docker("inspect", "--size", "--format", "{{.SizeRw}}", sleeper).isdigit()

    def test_ids_may_be_shortened(self, docker: Docker, sleeper: str) -> None:
        full = docker.field(sleeper, "{{.Id}}")
        assert docker.field(full[:8], "{{.Id}}") == full

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
        deadline = time.monotonic() + 120
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
        assert docker.field(sleeper, "{{.State.Running}}") == "true"
        assert "reclaimed space" in docker("system", "prune", "-f")
        assert docker("images", "-q", "busybox")
