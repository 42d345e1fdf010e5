"""From `linux.resources` to writes, on both versions, without touching a control file."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError, Unsupported
from skerry.kernel.cgroups import Hierarchy, Layout, Write, plan
from skerry.kernel.cgroups_plan_v2 import io_weight, weight_of_shares

NAMES_V1 = "cpu cpuacct cpuset memory devices freezer blkio pids hugetlb net_cls net_prio rdma"
V1 = Layout("v1", tuple(Hierarchy((name,), f"/cg/{name}", "/") for name in NAMES_V1.split()), None)
V2 = Layout(
    "unified",
    (),
    Hierarchy(("cpu", "cpuset", "io", "memory", "hugetlb", "pids", "rdma"), "/cg", "/"),
)
BARE_V1 = Layout("v1", (Hierarchy(("freezer",), "/cg/freezer", "/"),), None)
BARE_V2 = Layout("unified", (), Hierarchy((), "/cg", "/"))
NONE = Layout("none", (), None)


def values(resources: dict[str, Any], layout: Layout) -> list[tuple[str, str]]:
    """File and value of each write, without the device list."""
    return [(w.file, w.value) for w in plan("/c", resources, layout, devices=False)]


@pytest.mark.parametrize(
    ("resources", "v1", "v2"),
    [
        ({"memory": {"limit": 100}}, [("memory.limit_in_bytes", "100")], [("memory.max", "100")]),
        (
            {"memory": {"limit": 100, "swap": 250}},
            [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "250")],
            [("memory.swap.max", "150"), ("memory.max", "100")],
        ),
        (
            {"memory": {"limit": 100, "swap": 100}},
            [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "100")],
            [("memory.swap.max", "0"), ("memory.max", "100")],
        ),
        (
            {"memory": {"limit": -1}},
            [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")],
            [("memory.swap.max", "max"), ("memory.max", "max")],
        ),
        (
            {"memory": {"limit": 9, "checkBeforeUpdate": True}},
            [("memory.usage_in_bytes", "9"), ("memory.limit_in_bytes", "9")],
            [("memory.current", "9"), ("memory.max", "9")],
        ),
        (
            {"memory": {"reservation": 7}},
            [("memory.soft_limit_in_bytes", "7")],
            [("memory.low", "7")],
        ),
        ({"memory": {"limit": 0, "swap": 0, "reservation": 0}}, [], []),
        ({"cpu": {"shares": 1024}}, [("cpu.shares", "1024")], [("cpu.weight", "100")]),
        (
            {"cpu": {"quota": 5000, "period": 10000}},
            [("cpu.cfs_period_us", "10000"), ("cpu.cfs_quota_us", "5000")],
            [("cpu.max", "5000 10000")],
        ),
        ({"cpu": {"quota": -1}}, [("cpu.cfs_quota_us", "-1")], [("cpu.max", "max 100000")]),
        ({"cpu": {"idle": 1}}, [("cpu.idle", "1")], [("cpu.idle", "1")]),
        (
            {"cpu": {"quota": 5000, "burst": 100}},
            [("cpu.cfs_burst_us", "100"), ("cpu.cfs_quota_us", "5000")],
            [("cpu.max.burst", "100"), ("cpu.max", "5000 100000")],
        ),
        (
            {"cpu": {"cpus": "0-1,3", "mems": "0"}},
            [("cpuset.cpus", "0-1,3"), ("cpuset.mems", "0")],
            [("cpuset.cpus", "0-1,3"), ("cpuset.mems", "0")],
        ),
        ({"pids": {"limit": 5}}, [("pids.max", "5")], [("pids.max", "5")]),
        ({"pids": {"limit": -1}}, [("pids.max", "max")], [("pids.max", "max")]),
        ({"pids": {"limit": 0}}, [], []),
        (
            {"blockIO": {"weight": 500}},
            [("blkio.bfq.weight", "500"), ("blkio.weight", "500")],
            [("io.bfq.weight", "500"), ("io.weight", "default 4950")],
        ),
        (
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}},
            [("blkio.bfq.weight_device", "8:0 10"), ("blkio.weight_device", "8:0 10")],
            [("io.bfq.weight", "8:0 10"), ("io.weight", "8:0 1")],
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1000}]}},
            [("blkio.throttle.read_bps_device", "8:16 1000")],
            [("io.max", "8:16 rbps=1000")],
        ),
        (
            {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}},
            [("blkio.throttle.write_iops_device", "8:0 0")],
            [("io.max", "8:0 wiops=max")],
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]},
            [
                ("hugetlb.2MB.limit_in_bytes", "4194304"),
                ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
            ],
            [("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304")],
        ),
        (
            {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4}}},
            [("rdma.max", "mlx5_1 hca_handle=3 hca_object=4")],
            [("rdma.max", "mlx5_1 hca_handle=3 hca_object=4")],
        ),
    ],
)
def test_the_same_limit_on_both_versions(
    resources: dict[str, Any], v1: list[tuple[str, str]], v2: list[tuple[str, str]]
) -> None:
    assert values(resources, V1) == v1
    assert values(resources, V2) == v2


@pytest.mark.parametrize(
    ("resources", "writes"),
    [
        (
            {"memory": {"kernelTCP": 5, "swappiness": 0, "disableOOMKiller": True}},
            [
                ("memory.kmem.tcp.limit_in_bytes", "5"),
                ("memory.swappiness", "0"),
                ("memory.oom_control", "1"),
            ],
        ),
        (
            {"cpu": {"realtimeRuntime": 950, "realtimePeriod": 1000}},
            [("cpu.rt_period_us", "1000"), ("cpu.rt_runtime_us", "950")],
        ),
        (
            {"network": {"classID": 16, "priorities": [{"name": "eth0", "priority": 3}]}},
            [("net_cls.classid", "16"), ("net_prio.ifpriomap", "eth0 3")],
        ),
        ({"blockIO": {"leafWeight": 10}}, [("blkio.leaf_weight", "10")]),
    ],
)
def test_what_only_v1_can_do(resources: dict[str, Any], writes: list[tuple[str, str]]) -> None:
    assert values(resources, V1) == writes
    with pytest.raises(Unsupported, match="no counterpart on cgroup v2"):
        plan("/c", resources, V2)


def test_unified_is_for_v2_only() -> None:
    resources = {"unified": {"memory.high": "100", "io.max": "8:0 rbps=1\n8:16 wbps=2"}}
    assert values(resources, V2) == [
        ("memory.high", "100"),
        ("io.max", "8:0 rbps=1"),
        ("io.max", "8:16 wbps=2"),
    ]
    with pytest.raises(Unsupported, match="needs cgroup v2"):
        plan("/c", resources, V1)


@pytest.mark.parametrize("layout", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("swap", "rule"), [(200, "may"), (250, "must"), (-1, "may")], ids=["default", "asked", "none"]
)
def test_a_swap_limit_that_nobody_asked_for_may_be_missing(
    layout: Layout, swap: int, rule: str
) -> None:
    writes = plan("/c", {"memory": {"limit": 100, "swap": swap}}, layout, devices=False)
    assert [w.rule for w in writes if "sw" in w.file] == [rule]


def test_idle_is_left_before_and_entered_after_the_shares() -> None:
    leave = values({"cpu": {"idle": 0, "shares": 512}}, V1)
    enter = values({"cpu": {"idle": 1, "shares": 512}}, V1)
    assert leave == [("cpu.idle", "0"), ("cpu.shares", "512")]
    assert enter == [("cpu.shares", "512"), ("cpu.idle", "1")]


@pytest.mark.parametrize(
    ("resources", "controller"),
    [
        ({"memory": {"limit": 1}}, "memory"),
        ({"cpu": {"shares": 5}}, "cpu"),
        ({"cpu": {"cpus": "0"}}, "cpuset"),
        ({"pids": {"limit": 5}}, "pids"),
        ({"blockIO": {"weight": 10}}, "blkio|io"),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, "hugetlb"),
        ({"rdma": {"x": {"hcaHandles": 1}}}, "rdma"),
    ],
)
@pytest.mark.parametrize("layout", [BARE_V1, BARE_V2, NONE], ids=["v1", "v2", "none"])
def test_a_limit_without_its_controller_is_refused(
    resources: dict[str, Any], controller: str, layout: Layout
) -> None:
    with pytest.raises(Unsupported, match=f"controller ({controller}) is not available") as caught:
        plan("/c", resources, layout, devices=False)
    assert "mount" in caught.value.hint or "enable it" in caught.value.hint


@pytest.mark.parametrize("layout", [BARE_V1, BARE_V2, NONE], ids=["v1", "v2", "none"])
@pytest.mark.parametrize("resources", [None, {}, {"memory": {}, "cpu": {"cpus": ""}, "rdma": None}])
def test_nothing_asked_for_is_nothing_missed(resources: Any, layout: Layout) -> None:
    assert plan("/c", resources, layout, devices=False) == ()


def test_a_device_policy_comes_always_and_needs_its_controller_when_asked_for() -> None:
    writes = plan("/c", None, V1)
    assert writes[0] == Write("devices", "devices.deny", "a")
    assert plan("/c", None, V2)[-1].file == "bpf"
    assert plan("/c", None, BARE_V1) == ()
    everything = {"devices": [{"allow": True, "access": "rwm"}]}
    assert plan("/c", everything, BARE_V1) == ()
    with pytest.raises(Unsupported, match="controller devices"):
        plan("/c", {"devices": [{"allow": False, "access": "rwm"}]}, BARE_V1)


@pytest.mark.parametrize(
    "bad",
    [
        {"memory": {"limit": -2}},
        {"memory": {"limit": "1"}},
        {"memory": {"limit": True}},
        {"memory": {"limit": 1 << 64}},
        {"memory": {"limit": 100, "swap": 99}},
        {"memory": {"swappiness": 101}},
        {"memory": 5},
        {"cpu": {"shares": -1}},
        {"cpu": {"cpus": "0;1"}},
        {"cpu": {"mems": 0}},
        {"cpu": {"idle": 2}},
        {"pids": {"limit": 1.5}},
        {"blockIO": {"weight": 1001}},
        {"blockIO": {"weightDevice": [{"weight": 10}]}},
        {"blockIO": {"throttleReadBpsDevice": [{"major": 1, "minor": 1}]}},
        {"blockIO": {"throttleReadBpsDevice": {"major": 1}}},
        {"hugepageLimits": [{"pageSize": "../x", "limit": 1}]},
        {"hugepageLimits": [{"pageSize": "2MB"}]},
        {"rdma": {"a b": {"hcaHandles": 1}}},
        {"rdma": {"a": 5}},
        {"devices": [5]},
        [1],
    ],
)
@pytest.mark.parametrize("layout", [V1, V2], ids=["v1", "v2"])
def test_values_that_cannot_be_meant(bad: Any, layout: Layout) -> None:
    with pytest.raises(InvalidInput):
        plan("/c", bad, layout)


@pytest.mark.parametrize("key", ["../x", "memory/max", "memory", "", "a\nb.c", "memory."])
def test_unified_keys_name_files_in_the_group(key: str) -> None:
    with pytest.raises(InvalidInput):
        plan("/c", {"unified": {key: "1"}}, V2)


def test_weights_keep_their_ends_and_their_default() -> None:
    assert [weight_of_shares(n) for n in (2, 1024, 262144)] == [1, 100, 10000]
    assert [io_weight(n) for n in (10, 1000)] == [1, 10000]
    curve = [weight_of_shares(n) for n in range(2, 262145, 97)]
    assert curve == sorted(curve)


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(5)
NAMES = (
    "limit swap shares quota cpus idle weight major minor rate pageSize name priority classID "
    "priorities weightDevice hcaHandles throttleReadBpsDevice allow access type a.b"
)
names = st.sampled_from(NAMES.split(" "))
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)
)
parts = st.sampled_from(
    ["memory", "cpu", "pids", "blockIO", "hugepageLimits", "network", "rdma", "devices", "unified"]
)


@given(st.dictionaries(parts, trees, max_size=4), st.sampled_from([V1, V2, BARE_V1, NONE]))
def test_hostile_resources_end_in_writes_or_one_of_our_errors(
    resources: dict[str, Any], layout: Layout
) -> None:
    try:
        writes = plan("/c", resources, layout)
    except SkerryError:
        return
    for write in writes:
        assert "/" not in write.file
        assert "\n" not in write.value
        assert ".." not in write.file
