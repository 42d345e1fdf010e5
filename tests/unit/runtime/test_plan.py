"""Plans compared and printed without privileges."""

import json
from typing import Any

import pytest
from tests.unit.runtime.test_bundle import LAYOUT, full

from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.isolation import Overlay
from skerry.base.oci_runtime import Mount
from skerry.kernel import mounts as k
from skerry.kernel import namespaces as ns
from skerry.kernel.capabilities import CAPABILITIES
from skerry.runtime import bundle, mount_options, plan
from skerry.runtime.commands.spec import example
from skerry.runtime.plan import Plan, plan_process
from skerry.runtime.steps import Join, process_from_wire, process_to_wire


def planned(change: Any = None, **more: Any) -> Plan:
    spec = example()
    if change is not None:
        change(spec)
    parsed = bundle.parse(json.dumps(spec).encode())
    return plan.plan(parsed, bundle="/b", container_id="c", layout=LAYOUT, **more)


def test_namespaces_are_flags_and_joins_with_the_user_first() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [
            {"type": "mount"},
            {"type": "network", "path": "/n"},
            {"type": "user", "path": "/u"},
        ]
        del spec["hostname"]

    made = planned(change)
    assert made.new_namespaces == ns.CLONE_NEWNS
    assert made.joins == (Join(ns.CLONE_NEWUSER, "/u"), Join(ns.CLONE_NEWNET, "/n"))


def test_root_is_the_bundles_or_an_overlay() -> None:
    assert planned().rootfs == "/b/rootfs"
    overlay = Overlay(("/l2", "/l1"), "/u", "/w")
    made = planned(rootfs=overlay)
    assert (made.rootfs, made.overlay) == ("", overlay)
    assert "root: overlay of 2 layers, upper /u" in made.describe()


def test_devices_of_the_spec_win_and_a_bound_dev_has_none() -> None:
    device = {"path": "/dev/null", "type": "c", "major": 9, "minor": 9}
    made = planned(lambda s: s["linux"].update(devices=[device]))
    assert [d.major for d in made.devices if d.path == "/dev/null"] == [9]
    bound = {"destination": "/dev", "source": "/dev", "options": ["rbind"]}
    assert planned(lambda s: s["mounts"].append(bound)).devices == ()


def test_capabilities_are_masks() -> None:
    made = planned()
    assert made.process is not None
    expected = sum(
        1 << CAPABILITIES[name] for name in ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
    )
    assert made.process.bounding == made.process.effective == expected
    assert made.process.inheritable == made.process.ambient == 0


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
    ],
)
def test_sysctls_take_dots_or_slashes(name: str, path: str) -> None:
    assert planned(lambda s: s["linux"].update(sysctl={name: "1"})).sysctls == ((path, "1"),)


def test_the_wire_keeps_everything() -> None:
    spec = bundle.parse(json.dumps(full()).encode())
    made = plan.plan(spec, bundle="/b", container_id="c", layout=LAYOUT)
    again = Plan.from_wire(made.to_wire())
    assert again == made
    assert again.mounts[-1].idmap == made.mounts[-1].idmap
    assert again.hooks_of("prestart")[0].timeout == 3
    assert again.describe() == made.describe()
    assert made.process is not None
    assert process_from_wire(process_to_wire(made.process)) == made.process


def test_the_wire_refuses_another_version() -> None:
    import marshal

    with pytest.raises(InvalidInput, match="version"):
        Plan.from_wire(marshal.dumps((0, ())))


def test_intel_rdt_is_refused() -> None:
    with pytest.raises(Unsupported):
        planned(lambda s: s["linux"].update(intelRdt={"closID": "x"}))


def test_a_further_process_has_the_containers_filter() -> None:
    spec = bundle.parse(json.dumps(example()).encode())
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    made = plan_process({"args": ["x"], "cwd": "/"}, spec)
    assert made.seccomp
    assert made.bounding == 0


def options(*words: str) -> mount_options.Options:
    return mount_options.parse(words)


def test_later_options_win() -> None:
    assert options("ro", "rw").flags == 0
    assert options("ro", "rw")[1:3] == (0, k.ATTR_RDONLY)
    assert options("suid", "nosuid").attr_set == k.ATTR_NOSUID


def test_access_times_are_one_field() -> None:
    both = options("noatime", "strictatime")
    assert (both.attr_set, both.attr_clear) == (k.ATTR_STRICTATIME, k.ATTR_ATIME)


def test_recursive_options_and_data_apart() -> None:
    found = options("rro", "rnosuid", "rslave", "size=1m", "mode=755", "tmpcopyup")
    assert found.tree_set == k.ATTR_RDONLY | k.ATTR_NOSUID
    assert found.propagation == (k.MS_SLAVE | k.MS_REC,)
    assert found.data == "size=1m,mode=755"
    assert found.special == {"tmpcopyup"}


@pytest.mark.parametrize(
    ("mount", "word"),
    [
        ({"destination": "/x", "options": ["bind"]}, "no source"),
        ({"destination": "/x"}, "neither a type"),
        ({"destination": "/proc/sys", "source": "/x", "options": ["bind"]}, "inside /proc"),
        ({"destination": "/x", "type": "tmpfs", "options": ["idmap"]}, "bind mounts only"),
        ({"destination": "/x", "source": "/y", "options": ["bind"],
          "uidMappings": [{"size": 1}]}, "belong together"),
    ],
)  # fmt: skip
def test_mounts_that_cannot_be_meant(mount: Mount, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        mount_options.step(mount, "/b")


def test_relative_sources_are_the_bundles() -> None:
    step = mount_options.step({"destination": "x", "source": "s", "options": ["bind"]}, "/b")
    assert (step.source, step.target) == ("/b/s", "/x")
