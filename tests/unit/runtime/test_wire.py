"""Messages between engine, spawner and keepers."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base import errors
from skerry.runtime import wire

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        yield left, right


@pytest.mark.parametrize("size", [0, 1, wire.INLINE_LIMIT, wire.INLINE_LIMIT + 1, 3_000_000])
def test_head_body_and_descriptors_arrive(
    pair: Pair, size: int, open_descriptors: Callable[[], int]
) -> None:
    body = os.urandom(size)
    reader, writer = os.pipe()
    before = open_descriptors()
    wire.send(pair[0], {"op": "start", "n": [1, None]}, body, (writer,))
    message = wire.receive(pair[1])
    assert message is not None
    assert message.head == {"op": "start", "n": [1, None]}
    assert message.body == body
    (received,) = message.fds
    assert not os.get_inheritable(received)
    os.write(received, b"same pipe")
    assert os.read(reader, 100) == b"same pipe"
    os.close(received)
    assert open_descriptors() == before
    os.close(reader)
    os.close(writer)


def test_end_of_stream_is_none(pair: Pair) -> None:
    pair[0].close()
    assert wire.receive(pair[1]) is None


def test_head_over_the_limit_is_refused(pair: Pair, open_descriptors: Callable[[], int]) -> None:
    before = open_descriptors()
    with pytest.raises(errors.LimitExceeded):
        wire.send(pair[0], {"text": "x" * wire.HEAD_LIMIT}, b"y" * 100_000)
    assert open_descriptors() == before


def test_any_bytes_are_a_message_or_a_fault_and_leak_nothing(
    open_descriptors: Callable[[], int],
) -> None:
    before = open_descriptors()

    @given(st.binary(max_size=200))
    @settings(max_examples=200, deadline=None)
    def unpacked(data: bytes) -> None:
        try:
            message = wire.unpack(data, [os.open("/dev/null", os.O_RDONLY)])
        except errors.SystemFault:
            pass
        else:
            for held in message.fds:
                os.close(held)

    unpacked()
    assert open_descriptors() == before


def test_memfd_that_is_shorter_than_announced_is_a_fault() -> None:
    fd = os.memfd_create("short")
    os.write(fd, b"abc")
    datagram, _ = wire.pack({"memfd": 4})
    with pytest.raises(errors.SystemFault, match="cut short"):
        wire.unpack(datagram, [fd])


ERRORS = [
    kind("what was tried: why", hint="what to do")
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, errors.SkerryError | errors.GuestFault)
    # A keeper speaks to no registry; those errors are made of other parts.
    and not issubclass(kind, errors.KernelFault | errors.RegistryError)
]


@pytest.mark.parametrize("error", [*ERRORS, errors.KernelFault("mount /x", 13, hint="h")])
def test_errors_keep_type_message_and_hint(error: errors.SkerryError | errors.GuestFault) -> None:
    back = wire.error_from_wire(wire.error_to_wire(error))
    assert type(back) is type(error)
    assert (back.message, back.hint) == (error.message, error.hint)
    assert getattr(back, "errno", None) == getattr(error, "errno", None)


def test_foreign_errors_become_system_faults() -> None:
    back = wire.error_from_wire(wire.error_to_wire(ZeroDivisionError("oops")))
    assert type(back) is errors.SystemFault
    assert back.message == "ZeroDivisionError: oops"
    assert type(wire.error_from_wire({"type": "os", "message": "m"})) is errors.SystemFault
