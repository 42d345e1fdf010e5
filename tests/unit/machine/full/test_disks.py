"""What `qemu-img info` says about strangers' images, and which of them are taken."""

import fcntl
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import Conflict, InvalidInput, SkerryError
from skerry.machine.full.disks import Image, check_unused, judge


def info(**fields: Any) -> bytes:
    return json.dumps({"format": "qcow2", "virtual-size": 1 << 30} | fields).encode()


def test_a_plain_image_is_taken() -> None:
    assert judge(info(), "/a") == Image("qcow2", 1 << 30)


@pytest.mark.parametrize(
    "fields",
    [
        {"backing-filename": "/etc/shadow"},
        {"full-backing-filename": "/etc/shadow"},
        {"format-specific": {"type": "qcow2", "data": {"data-file": "/etc/shadow"}}},
        {"format-specific": {"type": "vmdk", "data": {"extents": [{"filename": "/etc/shadow"}]}}},
        {"encrypted": True},
        {"format": "luks"},
        {"virtual-size": 1 << 60},
        {"virtual-size": "1"},
    ],
)
def test_an_image_that_reaches_outside_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        judge(info(**fields), "/a")


def test_an_image_that_is_written_to_is_not_taken(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    check_unused(str(image))
    with image.open("rb") as running:
        held = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
        fcntl.fcntl(running, fcntl.F_OFD_SETLK, held)
        with pytest.raises(Conflict, match="in use"):
            check_unused(str(image))


def test_an_image_may_name_itself() -> None:
    data = {"type": "vmdk", "data": {"extents": [{"filename": "/a"}]}}
    assert judge(info(**{"format": "vmdk", "format-specific": data}), "/a").format == "vmdk"


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.binary(max_size=200)
    | st.builds(
        lambda fields: json.dumps(fields).encode(),
        st.dictionaries(
            st.sampled_from(["format", "virtual-size", "format-specific", "backing-filename"]),
            st.integers() | st.text(max_size=9) | st.dictionaries(st.just("data"), st.none()),
        ),
    )
)
def test_any_answer_is_judged_or_refused(out: bytes) -> None:
    try:
        image = judge(out, "/a")
    except SkerryError:
        return
    assert image.size > 0
