"""Carrying out writes on plain files that stand in for control files."""

import errno
from pathlib import Path

import pytest

from skerry.base.errors import Conflict, InvalidInput, KernelFault, SystemFault, Unsupported
from skerry.kernel import cgroups_files as files
from skerry.kernel.cgroups_files import CHECK, LATE, MAY, OR, Write, carry_out, explain
from skerry.kernel.cgroups_v1 import block_rows
from skerry.kernel.cgroups_v2 import io_rows


def run(folder: Path, *writes: Write) -> None:
    carry_out(writes, lambda _controller: str(folder))


def test_values_arrive(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    run(tmp_path, Write("x", "a", "1"), Write("x", "b", "2"))
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("1", "2")


def test_a_missing_file_is_an_error_unless_it_may_be_missing(tmp_path: Path) -> None:
    run(tmp_path, Write("x", "a", "1", MAY))
    with pytest.raises(Unsupported, match=r"cannot set memory\.memsw\.limit_in_bytes") as caught:
        run(tmp_path, Write("memory", "memory.memsw.limit_in_bytes", "1"))
    assert "swapaccount=1" in caught.value.hint


@pytest.mark.parametrize("present", ["first", "second"])
def test_one_of_two_files(tmp_path: Path, present: str) -> None:
    (tmp_path / present).touch()
    (tmp_path / "third").touch()
    writes = (Write("x", "first", "1", OR), Write("x", "second", "2"), Write("x", "third", "3"))
    run(tmp_path, *writes)
    assert (tmp_path / present).read_text() == {"first": "1", "second": "2"}[present]
    assert (tmp_path / "third").read_text() == "3"


def test_a_check_compares_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "usage").write_text("50\n")
    run(tmp_path, Write("x", "usage", "50", CHECK))
    with pytest.raises(Conflict, match="uses 50 now"):
        run(tmp_path, Write("x", "usage", "49", CHECK))
    assert (tmp_path / "usage").read_text() == "50\n"


def test_late_is_tried_again_after_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "limit").touch()
    (tmp_path / "swap").touch()
    order = []
    plain = files.os.write

    def write(fd: int, data: bytes) -> int:
        order.append(data)
        if len(order) == 1:
            raise OSError(errno.EINVAL, "limit above limit with swap")
        return plain(fd, data)

    monkeypatch.setattr(files.os, "write", write)
    run(tmp_path, Write("x", "limit", "10", LATE), Write("x", "swap", "20"))
    assert order == [b"10", b"20", b"10"]


def test_a_controller_that_went_away(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="pids is not mounted"):
        carry_out([Write("pids", "pids.max", "1")], lambda _controller: "")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EINVAL, InvalidInput),
        (errno.ERANGE, InvalidInput),
        (errno.ENODEV, InvalidInput),
        (errno.EBUSY, Conflict),
        (errno.EOPNOTSUPP, Unsupported),
        (errno.ENOENT, Unsupported),
        (errno.EACCES, KernelFault),
        (errno.EIO, KernelFault),
    ],
)
def test_a_refusal_says_whose_fault_it_is(tmp_path: Path, code: int, kind: type) -> None:
    error = explain(Write("cpu", "cpu.max", "5"), f"{tmp_path}/cpu.max", OSError(code, "x"))
    assert type(error) is kind
    assert "cpu.max" in error.message
    assert "5" in error.message


def test_a_group_that_is_gone(tmp_path: Path) -> None:
    path = f"{tmp_path}/gone/cpu.max"
    error = explain(Write("cpu", "cpu.max", "5"), path, OSError(errno.ENOENT, "x"))
    assert type(error) is SystemFault
    assert "is gone" in error.message


def test_reading() -> None:
    assert files.parse_number("max\n") == files.UNLIMITED
    assert files.parse_number("12\n") == 12
    assert files.parse_number("nonsense") == 0
    assert files.table("a 1\nb max\nbroken\n") == {"a": 1, "b": files.UNLIMITED}
    assert files.text("/does/not/exist") == ""


@pytest.mark.parametrize(
    "text", ["", "a 1\nb 2\n", "a 1\nb 2", "a 1\nb max\n", "a\nb 2\n", "a 1 2"]
)
def test_a_table_is_the_same_at_once_and_by_lines(text: str) -> None:
    assert files.table(text) == files.table(f"{text}\nodd\n")


def test_numbers_out_of_files(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("max\n")
    (tmp_path / "usage").write_text("4096\n")
    assert files.number(f"{tmp_path}/limit") == files.UNLIMITED
    assert files.number(f"{tmp_path}/usage") == 4096
    assert files.number(f"{tmp_path}/none") == files.number(str(tmp_path)) == 0


def test_block_io_counters() -> None:
    v1 = "8:0 Read 10\n8:0 Write 20\nTotal 30\n8:x Read 1\n"
    assert block_rows(v1) == [(8, 0, "Read", 10), (8, 0, "Write", 20)]
    v2 = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nbroken rbytes=1\n7:0 rbytes=x\n\n"
    transferred, operations = io_rows(v2)
    assert transferred == [(8, 0, "read", 1), (8, 0, "write", 2), (8, 0, "discard", 0)]
    assert operations == [(8, 0, "read", 3), (8, 0, "write", 4), (8, 0, "discard", 0)]
