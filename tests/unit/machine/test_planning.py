"""What a container becomes behind a machine's wall."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.isolation import KERNEL_ANNOTATION
from skerry.kernel import namespaces
from skerry.machine import planning, qemu, splice
from skerry.machine.shape import DEFAULT_MEMORY, GUEST_OVERHEAD, MIB, Shape, shape_for

OWN = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")]


def spec(**linux: Any) -> dict[str, Any]:
    return {
        "ociVersion": "1.2.0",
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": ""},
        "mounts": [],
        "linux": {"namespaces": [*OWN, {"type": "network"}], **linux},
    }


def guest(given_spec: dict[str, Any]) -> planning.Guest:
    return planning.guest_for(
        given_spec, container_id="ab" * 32, state_dir="/state", has_layers=True, host_cpus=4
    )


def test_the_network_becomes_a_card() -> None:
    wanted = spec(namespaces=[*OWN, {"type": "network", "path": "/run/net/x"}])
    made = guest(wanted)
    assert made.network == "/run/net/x"
    assert not made.plan.new_namespaces & namespaces.FLAGS["network"]
    assert made.plan.new_namespaces & namespaces.FLAGS["cgroup"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (OWN, "the host's network"),
        ([*OWN, {"type": "network"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}], "another"),
        ([*OWN[:1], *OWN[2:], {"type": "network"}], "the host's pid namespace"),
        ([*OWN[:2], *OWN[3:], {"type": "network"}], "the host's ipc namespace"),
        ([*OWN[:3], {"type": "network"}], "the host's uts namespace"),
    ],
)
def test_namespaces_of_the_host_are_refused(found: list[dict[str, str]], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        guest(spec(namespaces=found))


@pytest.mark.parametrize("option", ["shared", "rshared", "slave", "rslave"])
def test_binds_that_would_see_later_mounts_are_refused(option: str) -> None:
    bind = {"destination": "/d", "type": "bind", "source": "/srv", "options": ["rbind", option]}
    with pytest.raises(Unsupported, match=option):
        guest({**spec(), "mounts": [bind]})


def test_low_ports_and_pings_are_for_everybody_as_in_a_containers_network() -> None:
    usual = {
        "net/ipv4/ip_unprivileged_port_start": "0",
        "net/ipv4/ping_group_range": "0 2147483647",
    }
    assert dict(guest(spec()).plan.sysctls) == usual
    own = guest(spec(sysctl={"net.ipv4.ip_unprivileged_port_start": "99", "net.core.x": "1"}))
    changed = {"net/ipv4/ip_unprivileged_port_start": "99", "net/core/x": "1"}
    assert dict(own.plan.sysctls) == usual | changed


def test_hooks_are_refused() -> None:
    with pytest.raises(Unsupported):
        guest({**spec(), "hooks": {"prestart": [{"path": "/bin/true"}]}})


def test_a_kernel_is_named_by_an_annotation_with_its_full_path() -> None:
    assert guest(spec()).kernel == ""
    assert guest({**spec(), "annotations": {KERNEL_ANNOTATION: "/boot/k"}}).kernel == "/boot/k"
    with pytest.raises(InvalidInput, match="full path"):
        guest({**spec(), "annotations": {KERNEL_ANNOTATION: "boot/k"}})


def test_files_travel_and_folders_are_shared() -> None:
    bind = {"type": "bind", "options": ["rbind", "ro"]}
    wanted = spec()
    wanted["mounts"] = [
        {**bind, "destination": "/etc/hosts", "source": "/state/hosts"},
        {**bind, "destination": "/data", "source": "/srv/data"},
        {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
    ]
    made = guest(wanted)
    assert made.files == {"hosts": "/state/hosts"}
    assert made.shares == (planning.Share("/srv/data", True),)
    assert [step.source for step in made.plan.mounts] == ["/run/files/hosts", "/volumes/0", "tmpfs"]


def test_processor_limits_hold_the_machine_and_the_others_the_program() -> None:
    made = guest(
        spec(
            resources={
                "cpu": {"quota": 150_000, "period": 100_000},
                "memory": {"limit": 200 * MIB},
                "pids": {"limit": 10},
            }
        )
    )
    assert made.limits == {"cpu": {"quota": 150_000, "period": 100_000}}
    assert made.shape == Shape(512 * MIB, 2)
    written = {write.file: write.value for write in made.plan.cgroup_writes}
    assert written["memory.max"] == str(200 * MIB)
    assert written["pids.max"] == "10"


@given(st.integers(0, 64 << 30), st.floats(0, 1000), st.integers(1, 128))
def test_a_shape_holds_what_was_asked_for(memory: int, cpus: float, host: int) -> None:
    shape = shape_for(memory, cpus, host)
    assert 1 <= shape.cpus <= min(host, 64)
    if memory == 0:
        assert shape.memory == DEFAULT_MEMORY
    elif memory + GUEST_OVERHEAD <= 65536 * MIB:
        assert shape.memory >= memory + GUEST_OVERHEAD
    assert shape.memory % (256 * MIB) == 0


def test_limits_change_within_what_a_running_machine_has() -> None:
    machine = Shape(512 * MIB, 1)
    for resources in (
        {},
        {"memory": {"limit": 416 * MIB}},
        {"memory": {"limit": -1}},
        {"cpu": {"quota": 50_000, "period": 100_000, "cpus": "0-3"}},
        {"cpu": {"quota": -1}},
    ):
        assert planning.check_fits(resources, machine, 4).memory in (0, machine.memory)
    needed = planning.check_fits({"memory": {"limit": 417 * MIB}}, machine, 4)
    assert needed.memory == 1024 * MIB, "more is plugged in"
    more = {"cpu": {"quota": 150_000, "period": 100_000}}
    needed = planning.check_fits(more, machine, 4)
    assert needed == Shape(0, 2), "another processor is plugged in, nothing is said of memory"
    with pytest.raises(InvalidInput, match="places for 8 processors: while it runs, it cannot"):
        planning.check_fits({"cpu": {"quota": 900_000, "period": 100_000}}, machine, 16)
    assert Shape(512 * MIB, 12).places == 12
    largest = shape_for(1 << 60, 0, 1)
    planning.check_fits({"memory": {"limit": 1 << 60}}, largest, 4)


def test_a_template_and_its_clones_have_the_same_disks_in_the_same_order() -> None:
    empty, clone = qemu.empty_disks(), qemu.disks(qemu.Disks(10, 11, 12))
    devices = [word for word in empty if word.startswith("virtio-blk-pci")]
    assert [word for word in clone if word.startswith("virtio-blk-pci")] == devices
    assert len(devices) == 2


def test_every_joined_pair_redirects_both_ways() -> None:
    requests = splice.messages(5, 7)
    assert [message.kind for message in requests] == [16, 36, 44, 36, 44]
