"""Reading logs: tails, times, rotation, followers. The keeper's own writer makes the files."""

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.engine import logs
from skerry.engine.logs import Query
from skerry.runtime.log import FORMATS

NAMES = {"json-file": "log-json.log", "local": "log-local.log"}
KINDS = [(driver, compress) for driver in NAMES for compress in (False, True)]


async def texts(path: Path, query: Query) -> list[str]:
    found: list[str] = []
    async for entries in logs.read(str(path), query, lambda: False):
        found += [entry.log for entry in entries]
    return found


def write(
    path: Path,
    count: int,
    size: int = 0,
    stream: str = "stdout",
    kind: tuple[str, bool] = ("json-file", False),
) -> None:
    log = FORMATS[kind[0]](str(path), size, 100, kind[1])
    for number in range(count):
        log.write(stream, f"line {number}\n".encode())
    log.close()


@pytest.mark.parametrize("size", [0, 300])
@pytest.mark.parametrize("tail", [-1, 0, 1, 7, 1000])
@pytest.mark.parametrize("kind", KINDS)
async def test_tails_reach_into_rotated_files(
    tmp_path: Path, size: int, tail: int, kind: tuple[str, bool]
) -> None:
    path = tmp_path / NAMES[kind[0]]
    write(path, 40, size, kind=kind)
    assert path.with_name(f"{path.name}.2{'.gz' * kind[1]}").exists() == bool(size)
    every = [f"line {number}\n" for number in range(40)]
    expected = every if tail < 0 else every[len(every) - min(tail, 40) :]
    assert await texts(path, Query(tail=tail)) == expected


async def test_streams_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, 2)
    write(path, 3, stream="stderr")
    assert len(await texts(path, Query(stderr=False))) == 2
    assert len(await texts(path, Query(stdout=False))) == 3
    assert await texts(path, Query(stdout=False, tail=1)) == ["line 2\n"]


async def test_times_bound_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        "".join(
            f'{{"log":"{n}\\n","stream":"stdout","time":"1970-01-01T00:00:0{n}.500000000Z"}}\n'
            for n in range(5)
        )
    )
    second = 10**9
    assert await texts(path, Query(since=3 * second)) == ["3\n", "4\n"]
    assert await texts(path, Query(until=2 * second)) == ["0\n", "1\n"]
    assert await texts(path, Query(since=second, until=4 * second, tail=2)) == ["2\n", "3\n"]


async def test_no_log_and_damaged_lines(tmp_path: Path) -> None:
    assert await texts(tmp_path / "none", Query()) == []
    assert await texts(tmp_path / "none", Query(tail=3)) == []
    path = tmp_path / "log"
    path.write_bytes(b'nonsense\n{"log":"good\\n"}\n\xff\xfe\n[]\n{"log":"half')
    assert await texts(path, Query()) == ["good\n"]
    assert await texts(path, Query(tail=5)) == ["good\n"]


async def test_the_compact_format_keeps_bytes_times_and_streams(tmp_path: Path) -> None:
    path = tmp_path / NAMES["local"]
    log = FORMATS["local"](str(path), 0, 1)
    log.write("stdout", b"\xff one \r\n\n")
    log.write("stderr", b"o0123 rest")
    log.close()
    with path.open("ab") as file:
        file.write(b"damaged\nO00000000000000zz x\n")
    entries = [
        each async for batch in logs.read(str(path), Query(), lambda: False) for each in batch
    ]
    assert [each.log.encode("utf-8", "surrogateescape") for each in entries] == [
        b"\xff one \r\n",
        b"\n",
        b"o0123 rest",
    ]
    assert [each.stream for each in entries] == ["stdout", "stdout", "stderr"]
    assert all(0 <= time.time_ns() - logs.parse_time(each.time) < 60 * 10**9 for each in entries)
    assert len(path.read_bytes()) < 110
    later = logs.parse_time(entries[-1].time) + 1
    assert await texts(path, Query(since=later)) == []


async def test_a_cut_compressed_file_gives_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / NAMES["local"]
    write(path, 200, 2000, kind=("local", True))
    packed = path.with_name(f"{path.name}.2.gz")
    packed.write_bytes(packed.read_bytes()[:-20])
    found = await texts(path, Query())
    assert "line 0\n" in found
    assert found[-1] == "line 199\n"


@pytest.mark.parametrize("tail", [-1, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_follower_sees_everything_once_across_rotations(
    tmp_path: Path, tail: int, kind: tuple[str, bool]
) -> None:
    path = tmp_path / NAMES[kind[0]]
    log = FORMATS[kind[0]](str(path), 400 if kind[0] == "json-file" else 130, 100, kind[1])
    log.write("stdout", b"0\n1\n2\n")
    seen: list[str] = []
    writing = True

    async def follow() -> None:
        query = Query(tail=tail, follow=True)
        async for entries in logs.read(str(path), query, lambda: writing):
            seen.extend(entry.log for entry in entries)

    following = asyncio.ensure_future(follow())
    while len(seen) < (3 if tail < 0 else tail):
        await asyncio.sleep(0.001)
    for number in range(3, 60):
        log.write("stdout", b"%d\n" % number)
        await asyncio.sleep(0.001 if number % 10 else 0.02)
    writing = False
    await asyncio.wait_for(following, 120)
    log.close()
    first = 0 if tail < 0 else 1
    assert seen == [f"{number}\n" for number in range(first, 60)]


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_any_bytes_backwards(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(data)
    with path.open("rb") as file:
        found = list(logs.lines_backwards(file.fileno(), len(data)))
    assert found == [line for line in reversed(data.split(b"\n")) if line]


@given(st.text(max_size=40))
def test_any_time(text: str) -> None:
    assert isinstance(logs.parse_time(text), int)
