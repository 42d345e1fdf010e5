"""Device rules against the compiled program, run by a small eBPF interpreter."""

import itertools
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.kernel.bpf_devices import compile_device_filter
from skerry.kernel.cgroups_devices import parse_rule, rules

KINDS = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}


def interpret(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """What the program answers; fails on what the kernel's verifier would refuse."""
    context = (access << 16 | kind, major, minor)
    registers: dict[int, int] = {1: 0}
    code = list(struct.iter_unpack("=BBhI", program))
    at = 0
    while True:
        operation, pair, offset, number = code[at]
        to, source = pair & 15, pair >> 4
        at += 1
        match operation:
            case 0x61:
                assert source == 1
                registers[to] = context[offset // 4]
            case 0xB7:
                registers[to] = number
            case 0xBC:
                registers[to] = registers[source]
            case 0x54:
                registers[to] &= number
            case 0x74:
                registers[to] >>= number
            case 0x05:
                at += offset
            case 0x56:
                at += offset if registers[to] != number else 0
            case 0x46:
                at += offset if registers[to] & number else 0
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


def literal(listed: list[dict[str, Any]], kind: str, access: str, major: int, minor: int) -> bool:
    """Last match wins, for each access wanted; none denies."""

    def one(letter: str) -> bool:
        for rule in map(parse_rule, reversed(listed)):
            same = rule.kind in ("a", kind) and rule.major in (-1, major)
            if same and rule.minor in (-1, minor) and letter in rule.access:
                return rule.allow
        return False

    return all(one(letter) for letter in access)


def check(listed: list[dict[str, Any]], kind: str, access: str, major: int, minor: int) -> bool:
    bits = sum(ACCESS[letter] for letter in access)
    got = interpret(compile_device_filter(listed), KINDS[kind], bits, major, minor)
    assert got == literal(listed, kind, access, major, minor)
    return bool(got)


def test_without_rules_everything_is_denied() -> None:
    assert not check([], "c", "r", 1, 3)


def test_a_container_opens_null_and_no_disk() -> None:
    listed = [rule.as_oci() for rule in rules(())]
    assert check(listed, "c", "rw", 1, 3)
    assert check(listed, "c", "rw", 136, 42)
    assert check(listed, "b", "m", 8, 0)
    assert not check(listed, "b", "r", 8, 0)
    assert not check(listed, "c", "r", 1, 1)
    assert not check(listed, "c", "rw", 10, 200)


def test_a_later_denial_of_one_access_holds_for_both_together() -> None:
    listed = [
        {"allow": True, "type": "b", "major": 8, "access": "rwm"},
        {"allow": False, "type": "b", "major": 8, "minor": 1, "access": "w"},
    ]
    assert check(listed, "b", "r", 8, 1)
    assert not check(listed, "b", "w", 8, 1)
    assert not check(listed, "b", "rw", 8, 1)
    assert check(listed, "b", "rw", 8, 2)


def test_two_rules_together_allow_what_neither_does_alone() -> None:
    listed = [
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "w"},
    ]
    assert check(listed, "c", "rw", 10, 229)


def test_numbers_above_31_bits_are_not_sign_extended() -> None:
    listed = [{"allow": True, "type": "c", "major": 0xFFFFFFFE, "minor": 1, "access": "r"}]
    assert check(listed, "c", "r", 0xFFFFFFFE, 1)


def test_a_rule_for_all_ends_the_program() -> None:
    longer = [{"allow": True, "type": "c", "major": 1}, {"allow": True, "type": "a"}]
    assert compile_device_filter(longer) == compile_device_filter(longer[1:])


_numbers = st.none() | st.sampled_from([-1, 0, 1, 5, 8, 0xFFFFFFFF])
_rules = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {
                "allow": st.booleans(),
                "type": st.sampled_from("bc"),
                "access": st.sampled_from(["r", "w", "m", "rw", "rwm", "wm"]),
                "major": _numbers,
                "minor": _numbers,
            }
        ),
        st.fixed_dictionaries({"allow": st.booleans(), "type": st.just("a")}),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(_rules)
def test_any_list_means_what_it_says(listed: list[dict[str, Any]]) -> None:
    program = compile_device_filter(listed)
    wanted = ("r", "w", "m", "rw", "rm", "rwm")
    for kind, access, major, minor in itertools.product("bc", wanted, (0, 5, 8), (0, 1)):
        bits = sum(ACCESS[letter] for letter in access)
        got = interpret(program, KINDS[kind], bits, major, minor)
        assert got == literal(listed, kind, access, major, minor)


def test_a_malformed_rule_is_the_callers_fault() -> None:
    with pytest.raises(InvalidInput):
        compile_device_filter([{"allow": True, "type": "x"}])
