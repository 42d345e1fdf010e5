"""Request bodies against the tables of fields."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError
from skerry.engine import validation

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)
KEYS = st.sampled_from(
    ["Cmd", "Env", "Labels", "HostConfig", "Mounts", "Ulimits", "Memory", "Binds", "Healthcheck"]
)


def test_keys_are_matched_as_go_does() -> None:
    assert validation.CONFIG({"image": "a", "CMD": "b", "Nonsense": 1}, "") == {
        "Image": "a",
        "Cmd": ["b"],
    }


def test_null_among_values_is_their_zero() -> None:
    body = {"Cmd": ["a", None], "Labels": {"a": None}, "Env": [None]}
    assert validation.CONFIG(body, "") == {"Cmd": ["a", ""], "Labels": {"a": ""}, "Env": [""]}
    assert validation.HOST({"Devices": [None], "Sysctls": {"a": None}}, "") == {
        "Devices": [{}],
        "Sysctls": {"a": ""},
    }


def test_empty_values_are_left_out_but_where_they_mean_something() -> None:
    body = {"Tty": False, "Env": [], "Entrypoint": [], "StopTimeout": 0, "User": "", "Cmd": None}
    assert validation.CONFIG(body, "") == {"Entrypoint": [], "StopTimeout": 0}


@pytest.mark.parametrize(
    "body",
    [
        {"Tty": "yes"},
        {"Env": "A=b"},
        {"Env": [1]},
        {"Labels": ["a"]},
        {"Hostname": "x" * 300},
        {"Image": "a\0b"},
        {"StopTimeout": 2**40},
        {"Cmd": {"a": 1}},
    ],
)
def test_wrong_types_and_sizes_of_config(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(body))):
        validation.CONFIG(body, "")


@pytest.mark.parametrize(
    "body",
    [
        {"Memory": -5},
        {"Memory": 1.5},
        {"CgroupnsMode": "other"},
        {"OomScoreAdj": 1001},
        {"Mounts": [{"Type": 5}]},
        {"ConsoleSize": [1, 2, 3]},
        {"BlkioDeviceReadBps": [{"Path": "/dev/x", "Rate": "fast"}]},
    ],
)
def test_wrong_types_and_sizes_of_host_config(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        validation.HOST(body, "HostConfig")


def test_too_many_entries() -> None:
    with pytest.raises(LimitExceeded):
        validation.HOST({"Binds": ["/a:/b"] * 5000}, "HostConfig")


def test_whole_floats_are_numbers() -> None:
    assert validation.HOST({"Memory": 8e6}, "") == {"Memory": 8_000_000}


def test_endpoints_keep_what_was_said() -> None:
    given_ = {"EndpointsConfig": {"none": {"Aliases": ["a"], "IPAddress": "", "Links": None}}}
    assert validation.endpoints(given_) == {"none": {"Aliases": ["a"]}}


@given(st.dictionaries(KEYS | st.text(max_size=10), JSON, max_size=6))
def test_any_body(body: dict[str, Any]) -> None:
    for table in (validation.CONFIG, validation.HOST, validation.UPDATE, validation.EXEC):
        try:
            kept = table(body, "")
        except SkerryError as error:
            assert error.message
        else:
            assert table(kept, "") == kept
