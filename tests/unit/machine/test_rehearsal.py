"""What of a container's configuration a rehearsal has: nothing that its user wrote."""

import json

from skerry.machine import rehearsal
from skerry.runtime.steps import Plan

SECRET = "s3cret"
SPEC = {
    "ociVersion": "1.2.0",
    "hostname": SECRET,
    "annotations": {SECRET: SECRET},
    "root": {"path": f"/{SECRET}", "readonly": True},
    "process": {
        "terminal": True,
        "user": {"uid": 1000, "gid": 1000},
        "cwd": f"/{SECRET}",
        "args": [SECRET],
        "env": [f"TOKEN={SECRET}"],
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]},
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": f"/{SECRET}", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/data", "type": "bind", "source": f"/home/{SECRET}", "options": ["rw"]},
        {"destination": "/dev/shm", "type": "bind", "source": f"/{SECRET}", "options": ["rbind"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "hosts", "options": ["rbind"]},
    ],
    "linux": {
        "cgroupsPath": f"/{SECRET}",
        "sysctl": {"kernel.domainname": SECRET},
        "maskedPaths": ["/proc/kcore"],
        "namespaces": [
            *({"type": kind} for kind in ("pid", "mount", "ipc", "uts")),
            {"type": "network", "path": f"/run/{SECRET}"},
            {"type": "user"},
        ],
        "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
        "resources": {
            "memory": {"limit": 1 << 30},
            "devices": [{"allow": False, "access": "rwm"}],
        },
    },
}


def test_nothing_of_the_users_is_left() -> None:
    found = rehearsal.spec_for(SPEC)
    assert SECRET not in json.dumps(found)
    assert found["process"]["user"] == {"uid": 0, "gid": 0}
    assert found["root"] == {"path": "rootfs"}


def test_what_decides_about_the_guests_code_is_kept() -> None:
    found = rehearsal.spec_for(SPEC)
    targets = [mount["destination"] for mount in found["mounts"]]
    assert targets == ["/proc", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    linux = found["linux"]
    assert linux["maskedPaths"] == ["/proc/kcore"]
    kinds = ("pid", "mount", "ipc", "uts", "network")
    assert linux["namespaces"] == [{"type": kind} for kind in kinds]
    assert linux["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert found["process"]["capabilities"] == SPEC["process"]["capabilities"]  # type: ignore[index]


def test_it_can_be_planned_and_is_not_bound_to_the_hosts_files() -> None:
    made = Plan.from_wire(rehearsal.plan_for(SPEC))
    sources = {step.source for step in made.mounts if step.target == "/etc/hosts"}
    assert sources == {"/run/files/hosts"}
    assert not any(step.source.startswith("/volumes/") for step in made.mounts)
