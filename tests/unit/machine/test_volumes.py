"""What of the host's folders is taken out of a guest's container, read from the kernel's tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import Conflict
from skerry.machine.guest import volumes
from skerry.machine.guest.volumes import Gone, Mount

TABLE = r"""22 1 0:20 / / rw,relatime - overlay overlay rw
31 22 0:31 / /data rw,nosuid,relatime - virtiofs none rw
32 22 0:30 /1 /etc/a\040file ro,relatime master:3 - virtiofs volumes rw
33 31 0:32 / /data/below rw,relatime - virtiofs none rw
40 22 0:33 / /proc rw - proc proc rw
"""
MAPS = """7f0000000000-7f0000001000 r--p 00000000 00:1f 12                 /data/a file
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
"""


def test_the_table_is_read() -> None:
    assert volumes.parse(TABLE) == [
        Mount("0:31", "/", "/data", ("rw", "nosuid", "relatime")),
        Mount("0:30", "/1", "/etc/a file", ("ro", "relatime")),
        Mount("0:32", "/", "/data/below", ("rw", "relatime")),
    ]


def test_what_was_asked_for_comes_again() -> None:
    sources = {"/data": "/volumes/0", "/etc/a file": "/volumes/1"}
    assert volumes.planned(volumes.parse(TABLE), sources) == [
        Gone("/volumes/0", "/data", ("rw", "nosuid", "relatime")),
        Gone("/volumes/1", "/etc/a file", ("ro", "relatime")),
    ]


def test_what_the_container_mounted_itself_is_named() -> None:
    with pytest.raises(Conflict, match="/etc/a file"):
        volumes.planned(volumes.parse(TABLE), {"/data": "/volumes/0"})


def test_mapped_files_are_found_by_their_device() -> None:
    assert volumes.mapped(MAPS, {"0:31"}) == "/data/a file"
    assert volumes.mapped(MAPS, {"0:30"}) == ""


@given(st.lists(st.sampled_from(TABLE.splitlines()), max_size=8))
def test_each_mount_comes_once(lines: list[str]) -> None:
    found = volumes.parse("\n".join(lines))
    assert len(found) == sum("virtiofs" in line for line in lines)
