"""Machines are checked before anything is made."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError
from skerry.machine.full import spec
from skerry.machine.full.spec import Disk, Forward, Hardware, Nic, Share

MAC = "52:54:00:00:00:01"


def hardware(**changes: Any) -> Hardware:
    return Hardware(uuid="0" * 8, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": 1},
        {"cpus": 0},
        {"machine": "none"},
        {"accel": "xen"},
        {"firmware": "coreboot"},
        {"boot": ("floppy",)},
        {"cpu": "max,-device=x y"},
        {"disks": (Disk("disk0", "m/l", 1 << 30, "mfm"),)},
        {"disks": (Disk("disk0", "m/l", 1),)},
        {"nics": (Nic("nat", "53:54:00:00:00:01"),)},
        {"nics": (Nic("bridge", MAC, network="../x"),)},
        {"nics": (Nic("bridge", MAC, network="br0", forwards=(Forward(1, 2),)),)},
        {"nics": (Nic("nat", MAC, forwards=(Forward(80, 80), Forward(80, 81))),)},
        {"nics": (Nic("nat", MAC, forwards=(Forward(80, 80, "127.0.0.1,restrict=off"),)),)},
        {"shares": (Share("relative", "tag"),)},
        {"shares": (Share("/a", "tag"), Share("/b", "tag"))},
        {"vnc": "0.0.0.0:1,password=off"},
        {"video": "none,id=x"},
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        spec.check(hardware(**changes))


def test_what_can_be_built_is_returned() -> None:
    whole = hardware(
        disks=(Disk("disk0", "m/l", 1 << 30, "scsi"),),
        nics=(Nic("nat", MAC, forwards=(Forward(8080, 80),)),),
        shares=(Share("/srv", "srv", "9p", True),),
        vnc="127.0.0.1:7",
    )
    assert spec.check(whole) is whole
    assert spec.load(msgspec.to_builtins(whole)) == whole


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)
FIELDS = st.sampled_from([field.name for field in msgspec.structs.fields(Hardware)])


@given(st.dictionaries(FIELDS, json))
def test_any_body_is_a_machine_or_an_error_of_ours(data: dict[str, Any]) -> None:
    try:
        found = spec.check(spec.load({"uuid": "u"} | data))
    except SkerryError:
        return
    assert isinstance(found, Hardware)
