"""Small rules: restart policies, signals, sizes, merging, security options, limits, health."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError
from skerry.engine import etc, facts, health, log_options, merging, resources, restart, security
from skerry.engine.signals import parse_signal
from skerry.kernel.capabilities import DOCKER_DEFAULT

KNOWN = {name: number for number, name in enumerate((*DOCKER_DEFAULT, "CAP_BPF"))}


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("sigterm", 15), ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("RTMIN", 34)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "NOPE", "RTMIN-1", "RTMIN+99", "-9", "RTMAX+1", "RTMIN+²", "²"]
)
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"invalid signal|does not support signal"):
        parse_signal(text)


def test_restart_policies() -> None:
    always = restart.parse({"Name": "always"})
    failing = restart.parse({"Name": "on-failure", "MaximumRetryCount": 2})
    assert restart.wanted(always, code=0, count=99, stopped=False)
    assert not restart.wanted(always, code=0, count=0, stopped=True)
    assert restart.wanted(failing, code=1, count=1, stopped=False)
    assert not restart.wanted(failing, code=1, count=2, stopped=False)
    assert not restart.wanted(failing, code=0, count=0, stopped=False)
    unless = restart.parse({"Name": "unless-stopped"})
    assert restart.wanted_at_boot(unless, stopped=False)
    assert not restart.wanted_at_boot(unless, stopped=True)
    assert restart.wanted_at_boot(always, stopped=True)


@pytest.mark.parametrize(
    "raw",
    [
        {"Name": "sometimes"},
        {"Name": "always", "MaximumRetryCount": 1},
        {"Name": "on-failure", "MaximumRetryCount": -1},
    ],
)
def test_wrong_restart_policies(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="invalid restart policy"):
        restart.parse(raw)


def test_restart_pauses_double_up_to_a_minute_and_start_over() -> None:
    pauses = [0.0]
    for _ in range(12):
        pauses.append(restart.pause(pauses[-1], 0.5))
    assert pauses[1:4] == [0.1, 0.2, 0.4]
    assert pauses[-1] == 60
    assert restart.pause(60, 11) == 0.1


@pytest.mark.parametrize(
    ("text", "size"), [("10m", 10 << 20), ("1.5k", 1536), ("7", 7), ("2GB", 2 << 30), ("3b", 3)]
)
def test_sizes(text: str, size: int) -> None:
    assert log_options.parse_size(text) == size


@given(st.text(max_size=12))
def test_any_size(text: str) -> None:
    try:
        assert isinstance(log_options.parse_size(text), int)
    except SkerryError:
        return


def test_an_entry_point_of_ones_own_drops_the_images_command() -> None:
    image = {"Entrypoint": ["/e"], "Cmd": ["c"], "Env": ["A=1", "B=2"], "User": "u"}
    assert merging.merge({}, image)["Cmd"] == ["c"]
    merged = merging.merge({"Entrypoint": ["/own"], "Env": ["B=3"]}, image)
    assert "Cmd" not in merged
    assert merged["Env"] == ["B=3", "A=1"]
    assert merged["User"] == "u"
    assert merging.merge({"Cmd": ["x"]}, image)["Entrypoint"] == ["/e"]
    assert "Entrypoint" not in merging.merge({"Entrypoint": [""], "Cmd": ["x"]}, image)
    with pytest.raises(InvalidInput, match="no command specified"):
        merging.merge({}, {})


@given(
    st.dictionaries(
        st.sampled_from(["Env", "Cmd", "Entrypoint", "Shell", "Volumes", "Labels", "User",
                         "WorkingDir", "StopSignal", "ExposedPorts", "Healthcheck"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)  # fmt: skip
def test_any_configuration_of_an_image_merges_or_is_refused(image: dict[str, Any]) -> None:
    try:
        merged = merging.merge({"Env": ["A=1"], "Cmd": ["c"]}, image)
    except InvalidInput as refused:
        assert "configuration is damaged" in refused.message
    else:
        assert all(isinstance(each, str) for each in merged["Env"] + merged["Cmd"])


def test_health_checks_are_merged_field_by_field() -> None:
    image = {"Cmd": ["x"], "Healthcheck": {"Test": ["CMD", "a"], "Interval": 5}}
    merged = merging.merge({"Healthcheck": {"Interval": 9}}, image)
    assert merged["Healthcheck"] == {"Test": ["CMD", "a"], "Interval": 9}


def test_capabilities() -> None:
    default = security.capabilities((), (), KNOWN)
    assert default == DOCKER_DEFAULT
    assert security.capabilities((), ("all",), KNOWN) == ()
    assert security.capabilities(("chown",), ("ALL",), KNOWN) == ("CAP_CHOWN",)
    assert "CAP_KILL" not in security.capabilities((), ("kill",), KNOWN)
    assert "CAP_BPF" in security.capabilities(("ALL",), ("CAP_KILL",), KNOWN)
    assert security.capabilities((), (), KNOWN, privileged=True) == tuple(KNOWN)
    with pytest.raises(InvalidInput, match="invalid CapAdd"):
        security.capabilities(("FLY",), (), KNOWN)


def test_security_options() -> None:
    options = security.parse_options(
        ["no-new-privileges", "seccomp=unconfined", "systempaths=unconfined", "label=disable"]
    )
    assert options == security.Security("unconfined", True, False, "")
    assert security.parse_options(['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']).seccomp == {
        "defaultAction": "SCMP_ACT_ALLOW"
    }
    for wrong in ("seccomp=/no/such", "systempaths=x", "nothing", "a=b", "no-new-privileges=maybe"):
        with pytest.raises(InvalidInput):
            security.parse_options([wrong])


@pytest.mark.parametrize(
    "host",
    [
        {"Memory": 1 << 20},
        {"MemorySwap": 1 << 30},
        {"Memory": 1 << 30, "MemorySwap": 1 << 20},
        {"Memory": 8 << 20, "MemoryReservation": 9 << 20},
        {"NanoCpus": 10**9, "CpuQuota": 5000},
        {"NanoCpus": 10**15},
        {"CpuPeriod": 10},
        {"CpuQuota": 10},
        {"BlkioWeight": 5},
        {"CpusetCpus": "8191"},
        {"CpusetCpus": "0-8192"},
        {"CpusetCpus": "1-0"},
        {"CpusetCpus": "0,x"},
        {"CpusetCpus": "0-"},
        {"CpusetMems": "-"},
        {"Ulimits": [{"Name": "nothing"}]},
        {"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 4}]},
    ],
)
def test_limits_that_contradict(host: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        resources.check(host)


def test_processors_that_there_are() -> None:
    resources.check({"CpusetCpus": "0", "CpusetMems": "0"})
    resources.check({"CpusetCpus": "0-0,0"})
    with pytest.raises(InvalidInput, match="CPUs are not available - requested 8191, available: 0"):
        resources.check({"CpusetCpus": "8191"})


def test_limits_of_the_oci_specification() -> None:
    host = {"Memory": 64 << 20, "NanoCpus": 5 * 10**8, "PidsLimit": 9, "CpuShares": 7}
    assert resources.linux_resources(host) == {
        "memory": {"limit": 64 << 20, "swap": 128 << 20},
        "cpu": {"period": 100_000, "quota": 50_000, "shares": 7},
        "pids": {"limit": 9},
    }
    assert resources.linux_resources({}) == {}


def test_device_rules() -> None:
    assert resources.device_rule("c 1:* rwm") == {
        "allow": True,
        "type": "c",
        "major": 1,
        "access": "rwm",
    }
    for wrong in ("", "x 1:1 r", "c 1 r", "c 1:1 z", "c 1:1 ", "c a:1 r", "c 1:1 r r"):
        with pytest.raises(InvalidInput):
            resources.device_rule(wrong)


def test_health_of_a_container() -> None:
    check = health.parse({"Healthcheck": {"Test": ["CMD-SHELL", "a b"], "Retries": 2}})
    assert check is not None
    assert check.command == ("/bin/sh", "-c", "a b")
    assert health.parse({"Healthcheck": {"Test": ["NONE"]}}) is None
    state = health.Health(check, 0.0)
    assert not state.add(health.Result(10**9, 10**9, 1, ""))
    assert state.add(health.Result(10**9, 10**9, 1, ""))
    assert state.status == "unhealthy"
    assert state.add(health.Result(10**9, 10**9, 0, ""))
    assert (state.status, state.failing) == ("healthy", 0)


def test_failures_in_the_start_period_do_not_count() -> None:
    raw = {"Test": ["CMD", "a"], "Retries": 1, "StartPeriod": 10 * 10**9}
    check = health.parse({"Healthcheck": raw})
    assert check is not None
    state = health.Health(check, 0.0)
    assert not state.add(health.Result(5 * 10**9, 5 * 10**9, 1, ""))
    assert state.next_pause(5.0) == check.start_interval
    assert state.add(health.Result(11 * 10**9, 11 * 10**9, 1, ""))
    assert state.status == "unhealthy"


def test_hosts() -> None:
    text = etc.hosts("me", "lan", [("1.2.3.4", "other")], own_addresses=["10.0.0.2"])
    assert text.splitlines()[-2:] == ["1.2.3.4\tother", "10.0.0.2\tme.lan me"]
    assert etc.extra_hosts(["a:1.2.3.4", "b=::1", "c:[::2]"]) == [
        ("1.2.3.4", "a"),
        ("::1", "b"),
        ("::2", "c"),
    ]
    for wrong in ("a", "a:b", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3.4\n"):
        with pytest.raises(InvalidInput):
            etc.extra_hosts([wrong])


def test_resolv_conf() -> None:
    host = "nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch a b\noptions ndots:1\n# x\n"
    assert etc.resolv_conf(host, {}, shares_host=False) == (
        "nameserver 9.9.9.9\nsearch a b\noptions ndots:1\n\n"
        "# Based on host file: '/etc/resolv.conf' (legacy)\n# Overrides: []\n"
        "# Option ndots from: host\n"
    )
    assert etc.resolv_conf(host, {"DnsOptions": ["a"]}, shares_host=False, resolver=True) == (
        "nameserver 127.0.0.11\nsearch a b\noptions a ndots:0\n\n"
        "# Based on host file: '/etc/resolv.conf' (internal resolver)\n"
        "# ExtServers: [host(127.0.0.53) host(9.9.9.9)]\n# Overrides: [options]\n"
        "# Option ndots from: internal\n"
    )
    assert "127.0.0.53" in etc.resolv_conf(host, {}, shares_host=True)
    given_ = {"Dns": ["1.1.1.1"], "DnsSearch": ["."], "DnsOptions": ["use-vc"]}
    assert etc.resolv_conf(host, given_, shares_host=False) == (
        "nameserver 1.1.1.1\noptions use-vc\n\n"
        "# Based on host file: '/etc/resolv.conf' (legacy)\n"
        "# Overrides: [nameservers search options]\n"
    )
    with pytest.raises(InvalidInput):
        etc.resolv_conf("", {"Dns": ["x\nnameserver 1.2.3.4"]}, shares_host=False)


def test_rotation_is_on_unless_it_is_switched_off() -> None:
    usual = log_options.log_options({}, "/log")
    assert usual.max_size > 0
    assert usual.max_file > 1
    assert (
        log_options.log_options({"LogConfig": {"Config": {"max-size": "-1"}}}, "/log").max_size == 0
    )
    with pytest.raises(InvalidInput, match="max-size must be a positive number"):
        log_options.log_options({"LogConfig": {"Config": {"max-size": "0"}}}, "/log")


def test_each_log_driver_has_its_options() -> None:
    local = log_options.log_options({"LogConfig": {"Type": "local"}}, "/log")
    assert (local.driver, local.max_size, local.max_file, local.compress) == (
        "local",
        20 << 20,
        5,
        True,
    )
    plain = {
        "Type": "local",
        "Config": {"compress": "false", "max-size": "1k", "mode": "non-blocking"},
    }
    assert log_options.log_options({"LogConfig": plain}, "/log")[2:] == (1024, 5, False)
    for wrong, words in (
        ({"Type": "syslog"}, 'plugin "syslog" not found'),
        ({"Type": "local", "Config": {"tag": "x"}}, "unknown log opt 'tag' for log driver local"),
        ({"Config": {"compress": "maybe"}}, "compress"),
        ({"Config": {"mode": "fast"}}, "mode"),
    ):
        with pytest.raises(InvalidInput, match=words):
            log_options.log_options({"LogConfig": wrong}, "")


def test_a_namespace_is_joined_by_the_process_that_was_looked_at() -> None:
    own = os.getpid()
    with open("/proc/self/stat") as file:
        began = int(file.read().rpartition(")")[2].split()[19])
    found = facts.live_entry(own, began, "ns/net")
    try:
        assert os.fstat(found).st_ino == os.stat("/proc/self/ns/net").st_ino
    finally:
        os.close(found)
    assert facts.live_entry(own, began + 1, "ns/net") == -1
