"""The guest's compiled part, built for the host: what it reads, what it leaves to the agent.

Nothing here lets it do more than write to a test's own file: a list with other tasks is only looked
at (`understood`), never served.
"""

import ctypes
import os
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import SystemFault
from skerry.machine import compiled, kit, tasks
from skerry.machine.channel import CHUNK, Decoder, pack, pack_message, parse_message
from skerry.machine.cpio import Archive
from skerry.machine.guest import serving
from skerry.machine.tasks import Task

FILES = {"hosts": 70, "resolv.conf": 71}
CARDS = b"52:54:00:12:34:56=eth0"
MAGIC = b"tsk1"
built = pytest.mark.skipif(not compiled.compiler(), reason="no C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("compiled") / "serve.so"
    path.write_bytes(compiled.build(compiled.compiler()).library)
    return str(path)


class View(ctypes.Structure):
    """struct view of serve.c."""

    _fields_ = (("at", ctypes.c_void_p), ("left", ctypes.c_size_t))


class Reader:
    """`frame` and `understood`, with everything allowed."""

    def __init__(self, library: str) -> None:
        self._code = ctypes.CDLL(library)
        self._code.frame.restype = ctypes.c_long
        self._table = serving.table_of(FILES)

    def frame(self, data: bytes) -> int:
        return int(self._code.frame(data, ctypes.c_size_t(len(data))))

    def understood(self, whole: bytes) -> bool:
        # Copied, so that a read beyond its end is a read beyond the buffer's.
        data = ctypes.create_string_buffer(whole, len(whole))
        known = serving.Known(1, 1, 1, 1, 1, 1, (len(self._table), len(CARDS)), self._table, CARDS)
        seq, list_ = ctypes.c_uint32(), View()
        return bool(
            self._code.understood(
                ctypes.byref(known), data, ctypes.c_size_t(len(whole)),
                ctypes.byref(seq), ctypes.byref(list_),
            )
        )  # fmt: skip


@pytest.fixture(scope="module")
def reader(library: str) -> Reader:
    return Reader(library)


def allowed(kind: int, data: bytes) -> bool:
    """What the comment and the bounds in serve.c say."""
    match kind:
        case tasks.CLOCK:
            return len(data) == 8
        case tasks.SEED:
            return 1 <= len(data) <= 512
        case tasks.HOSTNAME | tasks.TOLD:
            return 1 <= len(data) <= 64
        case tasks.FILE:
            return bool(data) and data[1 : 1 + data[0]].decode("latin-1") in FILES
        case tasks.CARDS:
            return data == CARDS
        case tasks.IOCTL:
            return len(data) in (44, 124)
        case tasks.MODULE:
            plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
            return 1 <= len(data) <= 64 and data[:1] != b"." and not data.strip(plain)
        case tasks.THAW:
            return not data
    return False


def expected(whole: bytes) -> bool:
    """The same reading in Python, of a whole frame."""
    payload = whole[12:]
    (head,) = struct.unpack_from(">I", payload)
    body = payload[4 + head :]
    if len(payload) < 4 + head or len(body) < 8 or not body.startswith(MAGIC):
        return False
    at = 8
    while at < len(body):
        if len(body) - at < 4:
            return False
        kind, zero, length = struct.unpack_from(">BBH", body, at)
        data = body[at + 4 : at + 4 + length]
        if zero or len(data) != length or not allowed(kind, data):
            return False
        at += 4 + length
    return True


def a_list() -> st.SearchStrategy[list[Task]]:
    data = st.one_of(
        st.binary(max_size=130),
        st.sampled_from([CARDS, b"\x05hosts127.0.0.1", b"\x0bresolv.conf", b"ext4.ko", bytes(8)]),
        st.sampled_from([bytes(44), bytes(124), b"a/b", b"..", b"\xff", b"\x05host"]),
    )
    return st.lists(st.builds(Task, st.integers(0, 10), data), max_size=4)


@built
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a_list(), st.integers(0, 60), st.integers(0, 255), st.booleans())
def test_a_list_is_understood_in_whole_or_not_at_all(
    reader: Reader, wanted: list[Task], at: int, byte: int, damaged: bool
) -> None:
    whole = bytearray(pack_message({"op": "x"}, tasks.pack(7, wanted)))
    if damaged:
        whole[12 + at % (len(whole) - 12)] = byte
    assert reader.frame(bytes(whole)) == len(whole)
    assert reader.understood(bytes(whole)) == expected(bytes(whole))


@built
@given(st.binary(max_size=80))
def test_any_bytes_are_a_frame_or_not_for_it(reader: Reader, data: bytes) -> None:
    found = reader.frame(data)
    length = struct.unpack_from(">I", data, 8)[0] if len(data) >= 12 else 4
    ours = data[:8] == bytes([2, *bytes(7)])[: len(data)] and 4 <= length <= CHUNK
    assert found == (-1 if not ours else 12 + length if len(data) >= max(12, 12 + length) else 0)


CARD = {
    "slot": "52:54:00:12:34:56",
    "name": "eth0",
    "mac": "02:00:00:00:00:01",
    "mtu": 1500,
    "addresses": ["192.0.2.2/24"],
    "gateway": "192.0.2.1",
}
WAKE = {
    "identity": {"seed": "ab" * 64, "time_ns": 10**18, "hostname": "copy"},
    "files": {"hosts": "127.0.0.1 copy\n", "resolv.conf": ""},
    "cards": [CARD],
    "renew": {},
    "generation": "cd" * 16,
}


class Place(NamedTuple):
    """Both ends of a line, a file and a poll descriptor that nothing happens on."""

    here: socket.socket
    there: socket.socket
    file: int
    server: serving.Server
    events: select.epoll

    def stand(self, said: bytes = b"", *, freezer: int = -1) -> tuple[int, bytes]:
        may = serving.May(-1, -1, CARDS, freezer)
        return self.server.stand(
            self.there.fileno(), self.events.fileno(), may, said, random=-1,
            files={"hosts": self.file},
        )  # fmt: skip

    def contents(self) -> bytes:
        return os.pread(self.file, 4096, 0)


@pytest.fixture
def place(library: str, tmp_path: Path) -> Iterator[Place]:
    here, there = socket.socketpair()
    there.setblocking(False)
    file = os.open(tmp_path / "hosts", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(file, b"former")
    server = serving.Server(library)
    with here, there, server, select.epoll() as events:
        yield Place(here, there, file, server, events)
    os.close(file)


def message(wanted: list[Task]) -> bytes:
    return pack_message({"op": "wake", "seq": 5}, tasks.pack(5, wanted))


HOSTS = Task(tasks.FILE, b"\x05hosts127.0.0.1 me\n")


@built
def test_what_it_knows_is_done_and_answered(place: Place) -> None:
    place.here.sendall(message([Task(tasks.CARDS, CARDS), HOSTS]) + b"\x02more")
    assert place.stand(b"first") == (
        serving.SERVED,
        message([Task(tasks.CARDS, CARDS), HOSTS]) + b"\x02more",
    )
    assert place.contents() == b"127.0.0.1 me\n"
    said = place.here.recv(4096)
    assert said[:5] == b"first"
    (frame,) = Decoder().feed(said[5:])
    assert parse_message(frame.data).head == {"reply": 5}


@built
def test_programs_go_on_when_all_else_is_done(place: Place, tmp_path: Path) -> None:
    wanted = tasks.wake(WAKE)
    assert wanted is not None
    kinds = [kind for kind, _ in wanted]
    assert kinds[-1] == tasks.THAW
    assert kinds.count(tasks.THAW) == kinds.count(tasks.SEED) == 1
    assert [kind for kind, _ in tasks.go(1)][-1] == tasks.THAW
    freezer = os.open(tmp_path / "cgroup.freeze", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.write(freezer, b"1")
        place.here.sendall(message([HOSTS, Task(99, b""), Task(tasks.THAW, b"")]))
        assert place.stand(freezer=freezer)[0] == serving.HANDED
        assert os.pread(freezer, 9, 0) == b"1"
        place.here.sendall(message([HOSTS, Task(tasks.THAW, b"")]) + b"\x02")
        assert place.stand(freezer=freezer)[0] == serving.SERVED
        assert os.pread(freezer, 9, 0) == b"0"
    finally:
        os.close(freezer)


@built
@pytest.mark.parametrize(
    "sent",
    [
        message([HOSTS, Task(tasks.CARDS, b"another")]),
        message([HOSTS, Task(99, b"")]),
        message([HOSTS, Task(tasks.SEED, b"seed")]),
        pack_message({"op": "go"}),
        pack(3, 1, b"bytes of a stream"),
        pack(1, 0, b"a piece"),
    ],
    ids=["other cards", "no such task", "nothing to seed", "no list", "a stream", "a piece"],
)
def test_what_it_does_not_know_is_the_agents_and_untouched(place: Place, sent: bytes) -> None:
    place.here.sendall(sent)
    assert place.stand() == (serving.HANDED, sent)
    assert place.contents() == b"former"


@built
def test_half_a_frame_is_waited_for_and_handed_on_when_no_more_comes(place: Place) -> None:
    place.here.sendall(message([HOSTS])[:-1])
    place.here.shutdown(socket.SHUT_WR)
    assert place.stand() == (serving.HANDED, message([HOSTS])[:-1])
    assert place.contents() == b"former"


@built
def test_it_leaves_when_the_agent_has_something_to_do(place: Place) -> None:
    reading, writing = os.pipe()
    try:
        place.events.register(reading, select.EPOLLIN)
        os.write(writing, b".")
        assert place.stand() == (serving.EVENT, b"")
    finally:
        os.close(reading)
        os.close(writing)


@built
def test_a_failure_is_answered_with_its_number(place: Place, tmp_path: Path) -> None:
    reading = os.open(tmp_path / "hosts", os.O_RDONLY)
    try:
        place.here.sendall(message([HOSTS]) + b"\x02")
        outcome, _ = place._replace(file=reading).stand()
    finally:
        os.close(reading)
    assert outcome == serving.SERVED
    (frame,) = Decoder().feed(place.here.recv(4096))
    error = parse_message(frame.data).head["error"]
    assert (error["type"], error["action"], error["errno"]) == ("KernelFault", "write a file", 22)


@built
def test_a_copys_first_message_is_understood(reader: Reader) -> None:
    wanted = tasks.wake(WAKE)
    assert wanted is not None
    assert [kind for kind, _ in wanted].count(tasks.IOCTL) == 7
    assert reader.understood(pack_message({"op": "wake"}, tasks.pack(1, wanted)))
    boot = [*tasks.clock(10**18), *tasks.load(["ext4.ko", "virtio_net.ko"])]
    assert reader.understood(pack_message({"op": "x"}, tasks.pack(1, boot)))


@pytest.mark.parametrize(
    "change",
    [
        {"renew": {"/etc/machine-id": "00"}},
        {"cards": [{**CARD, "gateway6": "2001:db8::1"}]},
        {"cards": [{**CARD, "addresses": ["2001:db8::2/64"]}]},
        {"files": {"n" * 300: ""}},
    ],
    ids=["files to renew", "an IPv6 route", "an IPv6 address", "a long name"],
)
def test_what_only_the_agent_can_do_makes_no_list(change: dict[str, object]) -> None:
    assert tasks.pack(1, tasks.wake({**WAKE, **change})) == b""


def test_a_list_that_fills_a_frame_is_none() -> None:
    assert tasks.pack(1, [Task(tasks.FILE, bytes(CHUNK))]) == b""
    assert tasks.pack(1, [Task(tasks.FILE, bytes(10_000))] * 4) == b""


def test_a_compiler_that_fails_is_told_with_a_remedy(tmp_path: Path) -> None:
    broken = tmp_path / "gcc"
    broken.write_text("#!/bin/sh\necho 'asm/unistd.h: No such file' >&2\nexit 1\n")
    broken.chmod(0o755)
    for path in (str(broken), str(tmp_path / "none")):
        with pytest.raises(SystemFault) as caught:
            compiled.build(path)
        assert "libc6-dev" in caught.value.hint
        assert path in caught.value.message


def test_without_a_compiler_the_agent_is_the_first_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiled.compiler() == ""
    with open(tmp_path / "kit", "w+b") as file:
        kit.add_first(Archive(file), lambda path, data: data)
        file.seek(0)
        assert b"#!/usr/bin/python3 -ISE\nimport sys" in file.read()
