"""Names, sets and Docker's arithmetic; the calls themselves in a forked child."""

import contextlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.kernel import capabilities as caps


def test_numbers_are_those_of_the_kernel_header() -> None:
    assert len(caps.CAPABILITIES) == 41
    picked = {"CAP_CHOWN": 0, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYSLOG": 34}
    assert picked.items() <= caps.CAPABILITIES.items()
    assert caps.CAPABILITIES["CAP_CHECKPOINT_RESTORE"] == 40
    assert len(set(caps.DOCKER_DEFAULT)) == 14


def test_known_to_kernel_follows_procfs() -> None:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        assert len(caps.known_to_kernel()) == min(int(file.read()) + 1, 41)


@given(st.sets(st.sampled_from(caps.ALL)))
def test_mask_and_names_are_inverse(chosen: set[str]) -> None:
    assert set(caps.names(caps.mask(chosen))) == chosen


def test_parse_keeps_the_sets_apart_and_collects_the_unknown() -> None:
    sets = caps.parse({"bounding": ["CAP_CHOWN", "CAP_NEW"], "ambient": ["CAP_KILL"]})
    assert sets == caps.CapabilitySets(bounding=1, ambient=1 << 5, unknown=("CAP_NEW",))
    assert caps.parse(None) == caps.CapabilitySets()


@pytest.mark.parametrize(
    "bad", [{"bounding": "CAP_CHOWN"}, {"effective": [1]}, {"ambient": {}, "permitted": 3}]
)
def test_parse_refuses_what_is_not_a_list_of_names(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=r"process\.capabilities"):
        caps.parse(bad)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(caps.ALL),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["bounding", "ambient", "permitted", "x"]), json_values))
def test_parse_never_fails_otherwise(given_sets: dict[str, object]) -> None:
    with contextlib.suppress(InvalidInput):
        assert caps.parse(given_sets).bounding < 1 << 41


def _status_after(action: str, sets: caps.CapabilitySets, uid: int) -> dict[str, int]:
    """Capability lines of /proc/self/status in a child that took on `sets`."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            caps.drop_bounding(sets.bounding)
            if uid:
                caps.keep_on_setuid(True)
                os.setresuid(uid, uid, uid)
            caps.apply(sets)
            with open("/proc/self/status", "rb") as file:
                os.write(write_end, file.read())
            os._exit(0)
        except BaseException as error:
            os.write(write_end, f"failed: {action}: {error!r}".encode())
            os._exit(1)
    os.close(write_end)
    text = b""
    while chunk := os.read(read_end, 65536):
        text += chunk
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    assert status == 0, text
    lines = [line.split() for line in text.decode().splitlines() if line.startswith("Cap")]
    return {name.rstrip(":"): int(value, 16) for name, value in lines}


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@needs_root
def test_apply_as_root_leaves_exactly_the_sets() -> None:
    two = caps.mask(["CAP_KILL", "CAP_CHOWN"])
    wanted = caps.CapabilitySets(bounding=two, effective=two, permitted=two)
    lines = _status_after("root", wanted, 0)
    assert (lines["CapBnd"], lines["CapPrm"], lines["CapEff"]) == (two, two, two)
    assert lines["CapInh"] == lines["CapAmb"] == 0


@needs_root
def test_apply_as_a_user_keeps_ambient_across_setuid() -> None:
    one = caps.mask(["CAP_NET_BIND_SERVICE"])
    lines = _status_after("user", caps.CapabilitySets(one, one, one, one, one), 1234)
    assert set(lines.values()) == {one}


@needs_root
def test_apply_leaves_out_what_the_caller_does_not_hold() -> None:
    everything = (1 << caps.last_capability() + 1) - 1
    held = caps.current().permitted
    wanted = caps.CapabilitySets(everything, everything, 0, everything)
    assert _status_after("all", wanted, 0)["CapPrm"] == everything & held
