"""Docker's configuration as an OCI specification, against golden files.

A golden file holds what was asked and what came out. `SKERRY_WRITE_GOLDEN=1` writes the results
anew; read the difference before you commit it.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.engine import mounts, resources, security, spec, validation
from skerry.engine.record import Record
from skerry.engine.spec import Facts, Namespaces
from skerry.engine.users import User
from skerry.kernel.capabilities import DOCKER_DEFAULT

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
KNOWN = {name: number for number, name in enumerate(DOCKER_DEFAULT)}


def built(asked: dict[str, Any]) -> dict[str, Any]:
    config = validation.CONFIG(asked.get("Config", {}), "")
    host = validation.HOST(asked.get("HostConfig", {}), "")
    privileged = bool(host.get("Privileged"))
    record = Record(
        id="0123456789abcdef" * 4,
        name="golden",
        image="busybox",
        image_id="sha256:" + "ab" * 32,
        created_at=0,
        config=config,
        host=host,
        mounts=mounts.requested(config, host),
    )
    nodes, rules = resources.devices(host, privileged=False)
    facts = Facts(
        user=User(0, 0, (0, 10), "/root"),
        hostname=config.get("Hostname", "0123456789ab"),
        files={"/etc/hosts": "/state/hosts", "/etc/hostname": "/state/hostname"},
        namespaces=Namespaces(**asked.get("Namespaces", {})),
        capabilities=security.capabilities(
            host.get("CapAdd", ()), host.get("CapDrop", ()), KNOWN, privileged=privileged
        ),
        seccomp=None if privileged else {"defaultAction": "SCMP_ACT_ERRNO"},
        nodes=nodes,
        device_rules=rules,
        cgroup_path="/skerry/golden",
        root="",
        shm="/dev/shm" if host.get("IpcMode") == "host" else "",
    )
    return spec.build(record, facts)


def test_a_folder_that_holds_no_devices_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    host = {"Devices": [{"PathOnHost": str(tmp_path)}]}
    with pytest.raises(InvalidInput, match="not a device node"):
        resources.devices(host, privileged=False)
    monkeypatch.setattr(resources, "_MOST_BELOW", 2)
    with pytest.raises(LimitExceeded, match="more below"):
        resources.devices(host, privileged=False)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    golden = json.loads(path.read_text())
    result = json.loads(json.dumps(built(golden["asked"])))
    masked = result["linux"].get("maskedPaths", [])
    # These depend on the processors of the host.
    masked[:] = [path for path in masked if "thermal_throttle" not in path]
    if os.environ.get("SKERRY_WRITE_GOLDEN"):
        golden["built"] = result
        path.write_text(json.dumps(golden, indent=1) + "\n")
    assert result == golden["built"]


def test_there_are_golden_files() -> None:
    assert len(GOLDEN) >= 5


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("kernel.panic", Namespaces()),
        ("vm.swappiness", Namespaces()),
        ("net.ipv4.ip_forward", Namespaces(network="host")),
        ("kernel.msgmax", Namespaces(ipc="host")),
        ("fs.mqueue.msg_max", Namespaces(ipc="host")),
    ],
)
def test_settings_of_the_host_are_refused(name: str, shared: Namespaces) -> None:
    with pytest.raises(InvalidInput, match="sysctl"):
        spec.check_sysctls({"Sysctls": {name: "1"}}, shared)


def test_variables_are_replaced_and_taken_away() -> None:
    config = {"Env": ["PATH=/mine", "A=1", "A=2", "HOSTNAME", "HOME=/h"], "Tty": True}
    assert spec.environment(config, "me", "/root") == [
        "PATH=/mine",
        "TERM=xterm",
        "A=2",
        "HOME=/h",
    ]


def test_an_exec_starts_from_the_containers_process() -> None:
    container = built({"Config": {"Cmd": ["sleep"], "Env": ["A=1"], "WorkingDir": "/w"}})["process"]
    wanted = {"Cmd": ["ls"], "Env": ["B=2"], "Tty": True, "ConsoleSize": [24, 80]}
    process = spec.exec_process(container, wanted, None, ("CAP_ALL",))
    assert process["args"] == ["ls"]
    assert process["cwd"] == "/w"
    assert process["terminal"] is True
    assert process["consoleSize"] == {"height": 24, "width": 80}
    assert {"A=1", "B=2", "TERM=xterm"} <= set(process["env"])
    assert process["user"] == container["user"]
    assert process["capabilities"] == container["capabilities"]
    user = User(5, 6, (6,), "/home/five")
    other = spec.exec_process(container, {"Cmd": ["x"], "Privileged": True}, user, ("CAP_ALL",))
    assert other["user"] == {"uid": 5, "gid": 6, "additionalGids": [6]}
    assert other["capabilities"]["bounding"] == ["CAP_ALL"]
    assert "HOME=/home/five" in other["env"]
    assert container["args"] == ["sleep"]
    with pytest.raises(InvalidInput, match="No exec command"):
        spec.exec_process(container, {"Cmd": []}, None, ())
