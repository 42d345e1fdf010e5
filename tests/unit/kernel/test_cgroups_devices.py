"""Folding OCI device rules to what the v1 controller can say."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, Unsupported
from skerry.kernel.cgroups_devices import (
    ANY,
    DEFAULT_RULES,
    DENY_ALL,
    DeviceRule,
    parse_rule,
    rules,
    v1_writes,
)


def by_rules(listed: Iterable[DeviceRule], kind: str, major: int, minor: int, letter: str) -> bool:
    """OCI's meaning: the last rule that matches decides."""
    allowed = True
    for rule in listed:
        here = rule.major in (ANY, major) and rule.minor in (ANY, minor)
        if here and rule.kind in ("a", kind) and letter in rule.access:
            allowed = rule.allow
    return allowed


def by_v1(rows: Iterable[tuple[str, str]], kind: str, major: int, minor: int, letter: str) -> bool:
    """The kernel's meaning of the files (security/device_cgroup.c): a default and exceptions."""
    default, excepted = True, False
    for file, value in rows:
        if value == "a":
            default = file == "devices.allow"
            continue
        assert (file == "devices.allow") != default
        its_kind, numbers, access = value.split(" ")
        its_major, its_minor = numbers.split(":")
        if (
            its_kind == kind
            and its_major in ("*", str(major))
            and its_minor in ("*", str(minor))
            and letter in access
        ):
            excepted = True
    return default != excepted


one_rule = st.builds(
    DeviceRule,
    st.sampled_from("bc"),
    st.sampled_from([ANY, 1, 2]),
    st.sampled_from([ANY, 3, 4]),
    st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"]),
    st.booleans(),
) | st.builds(DeviceRule, st.just("a"), st.just(ANY), st.just(ANY), st.just("rwm"), st.booleans())


@given(st.lists(one_rule, max_size=8))
def test_the_v1_list_means_what_the_rules_mean(listed: list[DeviceRule]) -> None:
    listed = [DENY_ALL, *listed]
    try:
        rows = v1_writes(tuple(listed))
    except Unsupported:
        return
    for kind in "bc":
        for major in (1, 2, 9):
            for minor in (3, 4, 9):
                for letter in "rwm":
                    asked = (kind, major, minor, letter)
                    assert by_v1(rows, *asked) == by_rules(listed, *asked), (asked, rows)


def test_the_default_container() -> None:
    rows = v1_writes(rules([]))
    assert rows[0] == ("devices.deny", "a")
    assert ("devices.allow", "c 1:3 rwm") in rows
    assert len(rows) == 1 + len(DEFAULT_RULES)


def test_a_privileged_container_may_open_everything() -> None:
    rows = v1_writes(rules([{"allow": True, "access": "rwm"}]))
    assert rows == (("devices.allow", "a"),)


def test_a_hole_in_a_wider_rule_cannot_be_said() -> None:
    listed = rules(
        [
            {"allow": True, "type": "b", "major": 8, "access": "rwm"},
            {"allow": False, "type": "b", "major": 8, "minor": 0, "access": "rw"},
        ]
    )
    with pytest.raises(Unsupported, match="hole in 'b 8:\\*'"):
        v1_writes(listed)


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "x"},
        {"type": "c", "access": "rwx"},
        {"type": "c", "access": ""},
        {"type": "c", "major": -2},
        {"type": "c", "major": "1"},
        {"type": "c", "minor": 1 << 40},
        {"type": "a", "major": 1},
        {"type": "a", "access": "r"},
    ],
)
def test_rules_that_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        parse_rule(bad)


@given(one_rule)
def test_a_rule_survives_the_way_to_oci_and_back(rule: DeviceRule) -> None:
    assert parse_rule(rule.as_oci()) == rule
