"""The policy file: which rule decides, and that mistakes are errors."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.base.references import parse_reference
from skerry.trust.policy import MAX_POLICY, Policy, parse_policy

PATH = "/etc/skerry/policy.json"


def policy(**fields: Any) -> Policy:
    return parse_policy(json.dumps({"version": 1, **fields}).encode(), PATH)


def test_the_longest_scope_decides() -> None:
    found = policy(
        default={"rule": "accept"},
        scopes={
            "docker.io/library": {"rule": "accept"},
            "docker.io/library/debian": {"rule": "signedBy", "keys": ["a.pub", "/k/b.pub"]},
            "docker.io": {"rule": "reject"},
            "host.example:5000/a": {"rule": "reject"},
            "*.example": {"rule": "reject"},
            "deep.host.example": {"rule": "accept"},
        },
    )

    def scope(name: str) -> str:
        return found.rule(parse_reference(name)).scope

    assert scope("busybox") == "docker.io/library"
    assert scope("debian:12") == "docker.io/library/debian"
    assert scope("debianx") == "docker.io/library"
    assert scope("someone/x") == "docker.io"
    assert scope("host.example:5000/a/b") == "host.example:5000/a"
    assert scope("host.example:5000/ab") == "*.example"
    assert scope("deep.host.example/x") == "deep.host.example"
    assert scope("localhost:5000/x") == ""
    rule = found.rule(parse_reference("debian"))
    assert rule.keys == ("/etc/skerry/a.pub", "/k/b.pub") and rule.threshold == 1
    assert rule.shown == "scope docker.io/library/debian"
    assert found.default.shown == "default"


def test_without_a_default_nothing_comes_in() -> None:
    assert policy().rule(parse_reference("busybox")).verdict == "reject"


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"extra": 1},
        {"default": {"rule": "allow"}},
        {"default": {"rule": "accept", "keys": ["a"]}},
        {"default": {"rule": "signedBy"}},
        {"default": {"rule": "signedBy", "keys": ["a"], "threshold": 2}},
        {"default": {"rule": "signedBy", "keys": ["a", "a"], "threshold": 2}},
        {"default": {"rule": "signedBy", "keys": ["a"], "threshold": 0}},
        {"default": {"rule": "signedBy", "keys": [""]}},
        {"default": {"rule": "signedBy", "keys": [str(n) for n in range(33)]}},
        {"scopes": {"debian": {"rule": "accept"}}},
        {"scopes": {"": {"rule": "accept"}}},
        {"scopes": {"docker.io/library/debian:12": {"rule": "accept"}}},
        {"scopes": {"Docker.io/UPPER": {"rule": "accept"}}},
        {"scopes": {"*": {"rule": "accept"}}},
        {"scopes": {"*.example.org/x": {"rule": "accept"}}},
        {"scopes": {"index.docker.io": {"rule": "accept"}}},
    ],
)
def test_mistakes_are_errors_that_name_the_file(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=PATH):
        policy(**fields)


def test_size() -> None:
    with pytest.raises(InvalidInput, match="larger"):
        parse_policy(b" " * (MAX_POLICY + 1), PATH)


WORDS = st.sampled_from(
    ["version", "default", "scopes", "rule", "keys", "accept", "reject", "signedBy", "docker.io"]
)
JSON = st.recursive(
    st.none() | st.integers(-1, 3) | WORDS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    try:
        found = parse_policy(data, PATH)
    except InvalidInput as error:
        assert PATH in error.message
    else:
        assert found.rule(parse_reference("x.example/y")).verdict in (
            "accept",
            "reject",
            "signedBy",
        )
