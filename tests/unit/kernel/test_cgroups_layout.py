"""Finding the control groups: real layouts, hostile text, container paths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.kernel.cgroups import Hierarchy, Layout, container_path, detect, parse_layout

V1_MOUNTS = r"""
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/mem\040ory rw master:1 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
"""
V1_GROUPS = "5:name=systemd:/user.slice\n4:memory:/a/b\n1:cpu,cpuacct:/\n"
V2_MOUNTS = "30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V2_LAYOUT = Layout(
    "unified", (), Hierarchy(("cpu", "memory"), "/sys/fs/cgroup", "/user.slice/s.scope")
)
V1_LAYOUT = parse_layout(V1_MOUNTS, V1_GROUPS)


def test_v1_with_controllers_mounted_together() -> None:
    layout = parse_layout(V1_MOUNTS, V1_GROUPS)
    assert (layout.mode, layout.version, layout.unified) == ("v1", 1, None)
    assert layout.controllers == {"memory", "cpu", "cpuacct"}
    assert layout.mount_of("cpuacct") == layout.mount_of("cpu") == "/sys/fs/cgroup/cpu,cpuacct"
    assert layout.mount_of("memory") == "/sys/fs/cgroup/mem ory"
    assert layout.mount_of("pids") == ""
    assert [tree.own for tree in layout.hierarchies] == ["/user.slice", "/a/b", "/"]


def test_hybrid_limits_by_v1() -> None:
    mounts = V1_MOUNTS + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    layout = parse_layout(mounts, V1_GROUPS + "0::/x\n", "hugetlb\n")
    assert (layout.mode, layout.version) == ("hybrid", 1)
    assert layout.unified == Hierarchy(("hugetlb",), "/sys/fs/cgroup/unified", "/x")
    assert "hugetlb" not in layout.controllers


def test_unified_stays_in_charge_beside_a_stray_v1_tree() -> None:
    mounts = V2_MOUNTS + "50 22 0:40 / /run/net rw - cgroup net_cls rw,net_cls\n"
    layout = parse_layout(mounts, "1:net_cls:/\n0::/user.slice/s.scope\n", "cpu memory\n")
    assert layout == V2_LAYOUT
    assert layout.mount_of("cpu") == "/sys/fs/cgroup"
    assert layout.mount_of("net_cls") == ""


def test_of_several_mounts_the_usual_place_counts() -> None:
    for order in (("/a", "/sys/fs/cgroup", "/b"), ("/sys/fs/cgroup", "/a")):
        text = "".join(f"30 24 0:26 / {at} rw - cgroup2 cgroup rw\n" for at in order)
        assert parse_layout(text, "0::/x\n").unified == Hierarchy((), "/sys/fs/cgroup", "/x")


def test_the_group_is_seen_from_the_mount() -> None:
    mounts = "30 22 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
    layout = parse_layout(mounts, "0::/docker/abc/init\n", "pids")
    assert layout.unified and layout.unified.own == "/init"
    outside = parse_layout(mounts, "0::/docker/abcdef\n", "pids")
    assert outside.unified and outside.unified.own == "/"


def test_nothing_mounted() -> None:
    layout = parse_layout("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "0::/\n")
    assert layout == Layout("none", (), None)
    assert layout.version == 0


def test_a_layout_travels_as_plain_tuples() -> None:
    plain = ("hybrid", ((("memory",), "/m", "/a"),), ((), "/u", "/"))
    layout = Layout.from_plain(plain)
    assert layout.mount_of("memory") == "/m"
    assert Layout.from_plain(layout) == layout


def test_this_host_can_be_read() -> None:
    assert detect().mode in ("v1", "hybrid", "unified", "none")


lines = st.lists(
    st.sampled_from(V1_MOUNTS.splitlines() + V2_MOUNTS.splitlines())
    | st.text(alphabet=" -:/\\0127,cgroup2rwmemory=\n", max_size=60)
).map("\n".join)


@given(lines, lines, st.text(max_size=20))
def test_any_text_gives_a_consistent_layout(mounts: str, groups: str, controllers: str) -> None:
    layout = parse_layout(mounts, groups, controllers)
    assert (layout.mode == "none") == (layout.version == 0)
    assert (layout.version == 2) == (layout.mode == "unified")
    for tree in layout.hierarchies:
        assert tree.own.startswith("/")
        assert tree.controllers
    points = [tree.mount for tree in layout.hierarchies]
    assert len(points) == len(set(points))


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("", "/skerry/c1"),
        ("/a//b/./c/", "/a/b/c"),
        ("a/b", "/a/b"),
        ("machine.slice:pod:x", "/machine.slice:pod:x"),
    ],
)
def test_paths_on_v1(given_path: str, path: str) -> None:
    assert container_path(given_path, "c1", V1_LAYOUT) == path


def test_a_relative_path_on_v2_stands_beside_the_caller() -> None:
    assert container_path("a/b", "c1", V2_LAYOUT) == "/user.slice/a/b"
    assert container_path("/a/b", "c1", V2_LAYOUT) == "/a/b"


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("machine.slice:libpod:x", "/machine.slice/libpod-x.scope"),
        ("a-b-c.slice:p:n", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        (":p:n", "/system.slice/p-n.scope"),
        ("-.slice::n", "/n.scope"),
        ("a.slice:p:n.slice", "/a.slice/n.slice"),
        ("/plain/path", "/plain/path"),
    ],
)
def test_the_systemd_form(given_path: str, path: str) -> None:
    assert container_path(given_path, "c1", V2_LAYOUT, systemd=True) == path


@pytest.mark.parametrize(
    "bad",
    ["/../x", "..", "a/../../b", "/", "/a\0b", "/a\nb", "/" + "a" * 256, "/a" * 3000],
)
def test_paths_that_are_refused(bad: str) -> None:
    with pytest.raises(InvalidInput):
        container_path(bad, "c1", V1_LAYOUT)


@pytest.mark.parametrize("bad", ["plain:p:n", "a/../b.slice:p:n", "a.slice:..:../../x"])
def test_units_that_are_refused(bad: str) -> None:
    with pytest.raises(InvalidInput):
        container_path(bad, "c1", V2_LAYOUT, systemd=True)


@given(st.text(alphabet="/.:ab\0\n-", max_size=30), st.booleans())
def test_no_path_ever_leads_out(text: str, systemd: bool) -> None:
    try:
        path = container_path(text, "c1", V2_LAYOUT, systemd=systemd)
    except InvalidInput:
        return
    assert path.startswith("/")
    assert not {"", ".", ".."} & set(path[1:].split("/"))
