"""From the options of run to the API's body."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError
from skerry.cli import mounts
from skerry.cli.create_body import attached_streams, create_body
from skerry.cli.options import parse
from skerry.cli.run_options import CREATE_OPTIONS, RUN_OPTIONS


def body_of(*words: str) -> dict[str, Any]:
    parsed = parse(CREATE_OPTIONS + RUN_OPTIONS, list(words), intermixed=False)
    return create_body(parsed, attached_streams(parsed))


def host_of(*words: str) -> Any:
    return body_of(*words, "busybox")["HostConfig"]


def test_the_least() -> None:
    assert body_of("busybox") == {
        "Image": "busybox",
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "HostConfig": {},
    }


def test_the_program() -> None:
    body = body_of(
        "-it", "-e", "A=1", "-w", "/w", "-u", "1:2", "--entrypoint", "/e", "-h", "host",
        "-l", "a=b",
        "--label", "c", "--stop-signal", "INT", "--stop-timeout", "0", "busybox", "ls", "-l",
    )  # fmt: skip
    del body["HostConfig"]
    assert body == {
        "Image": "busybox", "Cmd": ["ls", "-l"], "AttachStdin": True, "AttachStdout": True,
        "AttachStderr": True, "Tty": True, "OpenStdin": True, "StdinOnce": True, "Env": ["A=1"],
        "WorkingDir": "/w", "User": "1:2", "Entrypoint": ["/e"], "Hostname": "host",
        "Labels": {"a": "b", "c": ""}, "StopSignal": "INT", "StopTimeout": 0,
    }  # fmt: skip


def test_limits() -> None:
    assert host_of(
        "-m", "64m", "--memory-swap", "-1", "--memory-reservation=32m", "--cpus", "1.5",
        "-c", "512",
        "--cpu-quota", "5000", "--cpuset-cpus", "0-1", "--pids-limit", "-1", "--shm-size", "8m",
        "--memory-swappiness", "0", "--oom-kill-disable", "--oom-score-adj", "-5",
        "--ulimit", "nofile=10:20", "--ulimit", "core=0", "--blkio-weight", "10",
        "--device-read-bps", "/dev/sda:1mb", "--device-write-iops", "/dev/sda:7",
    ) == {
        "Memory": 64 << 20, "MemorySwap": -1, "MemoryReservation": 32 << 20, "NanoCpus": 1500000000,
        "CpuShares": 512, "CpuQuota": 5000, "CpusetCpus": "0-1", "PidsLimit": -1,
        "ShmSize": 8 << 20, "MemorySwappiness": 0, "OomKillDisable": True, "OomScoreAdj": -5,
        "Ulimits": [
            {"Name": "nofile", "Soft": 10, "Hard": 20},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "BlkioWeight": 10, "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1 << 20}],
        "BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 7}],
    }  # fmt: skip


def test_policies(tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }')
    host = host_of(
        "--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--privileged", "--read-only", "--init",
        "--security-opt", f"seccomp={profile}", "--security-opt", "no-new-privileges",
        "--security-opt", "systempaths=unconfined", "--security-opt", "apparmor:x",
        "--restart", "on-failure:3", "--log-driver", "json-file", "--log-opt", "max-size=1m",
        "--sysctl", "net.a=1", "--annotation", "x=y", "--network", "none", "--ipc", "host",
        "--kernel", "/k",
    )  # fmt: skip
    assert json.loads(host["SecurityOpt"][0].removeprefix("seccomp=")) == {
        "defaultAction": "SCMP_ACT_ALLOW"
    }
    del host["SecurityOpt"][0]
    assert host == {
        "CapAdd": ["CAP_NET_ADMIN"], "CapDrop": ["ALL"], "Privileged": True, "ReadonlyRootfs": True,
        "Init": True, "SecurityOpt": ["no-new-privileges", "apparmor=x"], "MaskedPaths": [],
        "ReadonlyPaths": [], "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "Sysctls": {"net.a": "1"}, "NetworkMode": "none", "IpcMode": "host",
        "Annotations": {"x": "y", "io.skerry.kernel": "/k"},
    }  # fmt: skip


def test_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    body = body_of(
        "-v", "./a:/b:ro", "-v", "/c:/d", "-v", "named:/e", "-v", "/anonymous",
        "--mount", "type=bind,src=x,dst=/y,readonly,bind-propagation=rslave",
        "--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777",
        "--tmpfs", "/run:size=1m", "--device", "/dev/null:/dev/x:r", "--device", "/dev/zero:w",
        "busybox",
    )  # fmt: skip
    assert body["Volumes"] == {"/anonymous": {}}
    assert body["HostConfig"] == {
        "Binds": [f"{tmp_path}/a:/b:ro", "/c:/d", "named:/e"],
        "Mounts": [
            {"Type": "bind", "Source": f"{tmp_path}/x", "Target": "/y", "ReadOnly": True,
             "BindOptions": {"Propagation": "rslave"}},
            {"Type": "tmpfs", "Target": "/t",
             "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}},
        ],
        "Tmpfs": {"/run": "size=1m"},
        "Devices": [
            {"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"},
            {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/zero", "CgroupPermissions": "w"},
        ],
    }  # fmt: skip


def test_ports() -> None:
    body = body_of("-p", "8080:80", "-p", "127.0.0.1::53/udp", "-p", "[::1]:90-91:90-91",
                   "--expose", "7-8", "busybox")  # fmt: skip
    assert body["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
        "90/tcp": [{"HostIp": "::1", "HostPort": "90"}],
        "91/tcp": [{"HostIp": "::1", "HostPort": "91"}],
    }
    assert set(body["ExposedPorts"]) == {"80/tcp", "53/udp", "90/tcp", "91/tcp", "7/tcp", "8/tcp"}


def test_health() -> None:
    body = body_of("--health-cmd", "true", "--health-interval", "5s", "--health-retries", "2", "i")
    assert body["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"],
        "Interval": 5 * 10**9,
        "Retries": 2,
    }
    assert body_of("--no-healthcheck", "i")["Healthcheck"] == {"Test": ["NONE"]}


@pytest.mark.parametrize(
    ("words", "streams"),
    [
        ([], (False, True, True)),
        (["-i"], (True, True, True)),
        (["-d"], (False, False, False)),
        (["-a", "STDOUT"], (False, True, False)),
        (["-a", "stdin", "-a", "stderr"], (True, False, True)),
    ],
)
def test_streams(words: list[str], streams: tuple[bool, bool, bool]) -> None:
    parsed = parse(CREATE_OPTIONS + RUN_OPTIONS, [*words, "i"], intermixed=False)
    assert attached_streams(parsed) == streams


@pytest.mark.parametrize(
    "words",
    [
        ["-d", "-a", "stdout"], ["-a", "nope"], ["--rm", "--restart", "always"],
        ["--restart", "on-failure:x"], ["-m", "lots"], ["--cpus", "x"], ["--ulimit", "nofile"],
        ["--ulimit", "nofile=5:3"], ["--device", "/dev/x:/y:z"], ["--device", ":/x"],
        ["-p", "0:80"], ["-p", "x"], ["-p", "1-3:1-2"], ["-p", "99999:1"], ["--expose", "x"],
        ["--mount", "type=bind,src=/x"], ["--mount", "nope=1,dst=/x"],
        ["--mount", "type=tmpfs,dst=/x,volume-nocopy"], ["--mount", 'type=bind,"src=/x'],
        ["--security-opt", "seccomp=/nope"], ["--security-opt", "nope"], ["-v", ":/x"],
        ["-v", "x:"],
        ["--no-healthcheck", "--health-cmd", "x"], ["--health-interval", "-1s"], ["-e", "=x"],
        ["--sysctl", "=1"], ["--env-file", "/nope"], ["--label-file", "/nope"],
        ["--device-read-bps", "sda:1"], ["--blkio-weight-device", "/dev/sda:x"], ["--gpus", "x=1"],
        ["--log-driver", "none", "--log-opt", "a=b"], ["--sysctl", "kernel.msgmax"],
        ["--mount", "type=bind,src=/x,dst=/y,ro=maybe"], ["--ulimit", "NOFILE=5"],
        ["--network", ""],
    ],
)  # fmt: skip
def test_what_cannot_be_meant(words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        body_of(*words, "busybox")
    assert caught.value.message


@given(st.text(alphabet='a/:=,-"0123456789[]. rwm', max_size=25))
def test_anything_is_a_mount_a_port_a_device_or_invalid(text: str) -> None:
    for reader in (
        mounts.parse_volume,
        mounts.parse_mount,
        mounts.parse_device,
        mounts.parse_ulimit,
        mounts.split_csv,
        mounts.parse_weight,
        lambda item: mounts.parse_ports([item]),
        lambda item: mounts.parse_throttle(item, sizes=True),
    ):
        try:
            reader(text)
        except SkerryError as error:
            assert error.message


@given(st.lists(st.text(alphabet='a,"', max_size=8), min_size=1, max_size=4))
def test_quoted_fields_come_back(fields: list[str]) -> None:
    quoted = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
    assert mounts.split_csv(quoted) == fields


def test_a_relative_folder_is_no_volume_name() -> None:
    with pytest.raises(InvalidInput, match="invalid characters for a volume name") as caught:
        mounts.parse_volume("data/x:/x")
    assert "./data/x" in caught.value.hint
    assert mounts.parse_volume("./data:/x") == f"{os.getcwd()}/data:/x"
    assert mounts.parse_volume("data:/x") == "data:/x"
