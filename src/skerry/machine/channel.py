"""The line between a machine's warden (host) and its agent (guest): many streams over one port.

A frame is::

    uint8 kind | uint8 0 | uint16 0 | uint32 stream | uint32 length | payload

    PART, END   pieces of a message: uint32 length of the head | JSON head | opaque body
    DATA        bytes of a stream; at most WINDOW of them may be on the way
    EOF         the stream ends
    ACK         uint32: so many bytes of the stream were taken
    RESET       nobody reads the stream any more: send nothing further

Both ends run this module, and neither trusts the other: a length, a kind or an amount out of bounds
is a `ProtocolFault`, after which the line is of no use. What one end has not taken, the other holds
back, so no buffer here grows beyond WINDOW for a stream and MOST_MESSAGE for a message. An end that
sends and never takes makes the other owe it one number for each stream, and nothing else.
"""

import json
import os
import select
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from skerry.base.errors import MachineFault
from skerry.runtime.loop import GONE, READ, WRITE, Loop

PART, END, DATA, EOF, ACK, RESET = range(1, 7)
HEADER = struct.Struct(">BBHII")
CHUNK = 32 * 1024
"""The longest payload."""
WINDOW = 256 * 1024
MOST_STREAMS = 4096
MOST_HEAD = 64 * 1024
MOST_FROM_GUEST = 1024 * 1024
MOST_FROM_HOST = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode
"""Without json's own search for white space and encodings, which a fresh copy of a machine would
have to translate first."""
_CONGESTED = 512 * 1024
_READ = 64 * 1024


class ProtocolFault(MachineFault):
    """The other end does not keep to the protocol."""


class Frame(NamedTuple):
    """One frame, checked for bounds."""

    kind: int
    stream: int
    data: bytes


class Message(NamedTuple):
    """A head of plain JSON words and an opaque body."""

    head: dict[str, Any]
    body: bytes


def pack(kind: int, stream: int, data: bytes = b"") -> bytes:
    """A frame's bytes."""
    return HEADER.pack(kind, 0, 0, stream, len(data)) + data


def pack_message(head: dict[str, Any], body: bytes = b"") -> bytes:
    """A message's frames."""
    text = _encode(head).encode()
    if len(text) > MOST_HEAD:
        raise ProtocolFault(f"a message head of {len(text)} bytes; the limit is {MOST_HEAD}")
    whole = memoryview(_LENGTH.pack(len(text)) + text + body)
    pieces = [whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK)]
    frames = [pack(PART, 0, bytes(piece)) for piece in pieces[:-1]]
    return b"".join([*frames, pack(END, 0, bytes(pieces[-1]))])


def parse_message(data: bytes) -> Message:
    """The message that its pieces make; ProtocolFault."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        if length > MOST_HEAD or length > len(data) - _LENGTH.size:
            raise ValueError("the head's length is out of bounds")
        end = _LENGTH.size + length
        text = str(memoryview(data)[_LENGTH.size : end], "utf-8")
        head, scanned = _decode(text)
        if not isinstance(head, dict) or scanned != len(text):
            raise ValueError("the head is no object")
    except (ValueError, struct.error, RecursionError) as error:
        raise ProtocolFault(f"malformed message: {error}") from None
    return Message(head, data[end:])


class Decoder:
    """Bytes in any pieces to frames. Holds at most one frame."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    @property
    def empty(self) -> bool:
        """Nothing is half read."""
        return not self._waiting

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now; ProtocolFault when one is out of bounds."""
        waiting = self._waiting
        waiting += data
        frames: list[Frame] = []
        at = 0
        while len(waiting) - at >= HEADER.size:
            kind, zero, zeros, stream, length = HEADER.unpack_from(waiting, at)
            if not PART <= kind <= RESET or zero or zeros or length > CHUNK:
                raise ProtocolFault(f"malformed frame: kind {kind}, length {length}")
            end = at + HEADER.size + length
            if end > len(waiting):
                break
            frames.append(Frame(kind, stream, bytes(waiting[at + HEADER.size : end])))
            at = end
        del waiting[:at]
        return frames


class Source:
    """A local descriptor whose bytes go out on a stream."""

    def __init__(self, line: "Line", stream: int, fd: int) -> None:
        self._line = line
        self.stream = stream
        self.fd = fd
        self._credit = WINDOW
        self.moved = 0
        """Bytes that the other end has taken."""
        self.last_drain = False
        """The writer has gone: what waits now is the rest, whoever else holds the other end."""
        self.on_end: Callable[[], None] | None = None

    @property
    def hosts_turn(self) -> bool:
        """The other end has taken all there was so far."""
        return self.fd >= 0 and self._credit >= WINDOW and not self._line.congested

    def arrange(self) -> None:
        """Watch the descriptor while there is credit and the line is free."""
        if self.fd < 0:
            return
        if self._credit <= 0 or self._line.congested:
            self._line.loop.drop(self.fd)
        else:
            self._line.loop.watch(self.fd, READ, self._ready)

    def _ready(self, _fd: int, _events: int) -> None:
        try:
            data = os.read(self.fd, min(CHUNK, self._credit))
        except BlockingIOError:
            if self.last_drain:
                self.finish()
            return
        except OSError:
            data = b""  # EIO: the last holder of a terminal's other side has gone.
        if not data:
            self.finish()
            return
        self._credit -= len(data)
        self._line.send(pack(DATA, self.stream, data))
        self.arrange()

    def drain(self) -> None:
        """Send what waits and end."""
        self.last_drain = True
        while self.fd >= 0 and self._credit > 0 and not self._line.congested:
            self._ready(self.fd, READ)

    def credited(self, count: int) -> None:
        """The other end has taken so much."""
        self._credit += count
        self.moved += count
        if self._credit > WINDOW:
            raise ProtocolFault("acknowledged more than was sent")
        if self.last_drain:
            self.drain()
        self.arrange()

    def refill(self) -> None:
        """Nothing is on the way."""
        self._credit = WINDOW

    @property
    def at_rest(self) -> bool:
        """Nothing is on the way."""
        return self._credit == WINDOW and not self.last_drain

    def spend(self, count: int) -> None:
        """So much is on the way already."""
        self._credit -= count
        self.arrange()

    def finish(self) -> None:
        """No more comes."""
        if self.fd >= 0:
            self._line.loop.drop(self.fd)
            os.close(self.fd)
            self.fd = -1
            self._line.send(pack(EOF, self.stream))
            self._line.forget_source(self.stream)
            if self.on_end:
                self.on_end()


class Sink:
    """A stream whose bytes go to a local descriptor."""

    def __init__(self, line: "Line", stream: int, fd: int, *, close_at_end: bool = True) -> None:
        self._line = line
        self.stream = stream
        self.fd = fd
        self._close_at_end = close_at_end
        self._waiting = bytearray()
        self._ended = False
        self.moved = 0
        """Bytes that have come."""
        self.on_end: Callable[[], None] | None = None

    @property
    def waiting(self) -> int:
        """Bytes that have come and were not written yet."""
        return len(self._waiting)

    @property
    def hosts_turn(self) -> bool:
        """What has come was not taken here yet."""
        return bool(self._waiting)

    @property
    def done(self) -> bool:
        """All has come and was written, or nobody takes it."""
        return self.fd < 0 or (self._ended and not self._waiting)

    def take(self, data: bytes) -> None:
        """Bytes of the stream."""
        if self._ended or len(self._waiting) + len(data) > WINDOW:
            raise ProtocolFault("a stream sends more than its window")
        self._waiting += data
        self.moved += len(data)
        self._flush()

    def end(self) -> None:
        """The stream's end."""
        if self._ended:
            raise ProtocolFault("a stream ends twice")
        self._ended = True
        self._flush()

    def _ready(self, _fd: int, events: int) -> None:
        if events & GONE and not events & WRITE:
            self._refuse()
        else:
            self._flush()

    def _flush(self) -> None:
        if self.fd < 0:
            self._waiting.clear()
            if self._ended:
                self._line.forget_sink(self.stream)
            return
        written = 0
        try:
            while self._waiting:
                count = os.write(self.fd, self._waiting)
                del self._waiting[:count]
                written += count
        except BlockingIOError:
            pass
        except OSError:
            self._refuse()
            return
        if written and not self._ended:
            self._line.acknowledge(self.stream, written)
        if self._waiting:
            self._line.loop.watch(self.fd, WRITE, self._ready)
            return
        self._line.loop.drop(self.fd)
        if self._ended:
            self.close()

    def _refuse(self) -> None:
        """Nobody reads there."""
        if not self._ended:
            self._line.send(pack(RESET, self.stream))
        self.close()

    def close(self) -> None:
        """Let go of the descriptor; what still comes is dropped."""
        if self.fd >= 0:
            self._line.loop.drop(self.fd)
            if self._close_at_end:
                os.close(self.fd)
            self.fd = -1
            self._waiting.clear()
            if self._ended:
                self._line.forget_sink(self.stream)
            if self.on_end:
                self.on_end()


class Line:
    """One end of the line, over a non-blocking descriptor on an epoll loop."""

    def __init__(
        self,
        loop: Loop,
        fd: int,
        on_message: Callable[[Message], None],
        on_lost: Callable[[str], None],
        *,
        most_message: int,
    ) -> None:
        """`on_lost` is called once, with the reason, when the line is of no more use."""
        self.loop = loop
        self.fd = fd
        self._on_message = on_message
        self._on_lost = on_lost
        self._most_message = most_message
        self._decoder = Decoder()
        self._message = bytearray()
        self._out = bytearray()
        self._later: bytearray | None = None
        self._owed: dict[int, int] = {}
        """By stream, what was taken and could not be acknowledged yet."""
        self._sources: dict[int, Source] = {}
        self._sinks: dict[int, Sink] = {}
        self.lost = False
        loop.watch(fd, READ, self._ready)

    # Streams

    def source(self, stream: int, fd: int) -> Source:
        """Send what comes out of `fd` (non-blocking; taken over) as `stream`."""
        if stream in self._sources or len(self._sources) >= MOST_STREAMS:
            raise ProtocolFault(f"stream {stream} is in use")
        made = self._sources[stream] = Source(self, stream, fd)
        made.arrange()
        return made

    def sink(self, stream: int, fd: int, *, close_at_end: bool = True) -> Sink:
        """Write what comes as `stream` to `fd` (non-blocking; taken over)."""
        if stream in self._sinks or len(self._sinks) >= MOST_STREAMS:
            raise ProtocolFault(f"stream {stream} is in use")
        made = self._sinks[stream] = Sink(self, stream, fd, close_at_end=close_at_end)
        return made

    def spend(self, stream: int, count: int) -> None:
        """A source's other end holds so much already."""
        if source := self._sources.get(stream):
            source.spend(count)

    def forget_source(self, stream: int) -> None:
        """It has ended."""
        self._sources.pop(stream, None)

    def forget_sink(self, stream: int) -> None:
        """It has ended."""
        self._sinks.pop(stream, None)
        self._owed.pop(stream, None)

    def has_room(self, count: int) -> bool:
        """Whether so many more streams can go each way."""
        return max(len(self._sources), len(self._sinks)) + count <= MOST_STREAMS

    # Sending

    @property
    def queued(self) -> int:
        """Bytes that wait for the other end to take them."""
        return len(self._out) + len(self._later or b"")

    @property
    def congested(self) -> bool:
        """So much waits that no more should be read for it."""
        return self.queued > _CONGESTED

    def say(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Send a message."""
        self.send(pack_message(head, body))

    def send(self, data: bytes) -> None:
        """Queue frames."""
        if self.lost:
            return
        if self._later is not None:
            self._later += data
            return
        self._out += data
        if len(self._out) == len(data):
            self._flush()

    def acknowledge(self, stream: int, count: int) -> None:
        """So much of a stream was taken: said now, or in one number once the line is free."""
        if self._out or self._later is not None:
            self._owed[stream] = self._owed.get(stream, 0) + count
        else:
            self.send(pack(ACK, stream, _LENGTH.pack(count)))

    def _pay(self) -> bool:
        """Queue what is owed; whether that was anything."""
        if not self._owed or self._later is not None:
            return False
        for stream, count in self._owed.items():
            self._out += pack(ACK, stream, _LENGTH.pack(count))
        self._owed.clear()
        return True

    def hold(self) -> None:
        """What is queued goes out, what is sent from now on waits for `release`: the line rests
        between two frames."""
        if self._later is None:
            self._later = bytearray()

    def release(self) -> None:
        """Send what has waited."""
        later, self._later = self._later, None
        if later:
            self.send(bytes(later))
        if self._owed and not self._out and not self.lost:
            self._flush()

    def at_rest(self, kept: set[int]) -> bool:
        """Whether nothing is on the way or half read, and there are no streams but `kept`."""
        return (
            not (self.lost or self._out or self._later or self._message or self._owed)
            and self._decoder.empty
            and kept.issuperset({*self._sources, *self._sinks})
            and all(source.at_rest for source in self._sources.values())
            and not any(sink.waiting for sink in self._sinks.values())
        )

    def begin_anew(self, kept: set[int]) -> dict[str, int]:
        """Somebody else is at the other end, who knows the streams in `kept` only.

        What was on the way is lost, and so are the other streams; what waits to be released was
        meant for the one before. Returns, by stream, the bytes that a kept sink still holds.
        """
        self._later = bytearray() if self._later is not None else None
        self._decoder = Decoder()
        self._message.clear()
        self._owed.clear()
        for source in list(self._sources.values()):
            if source.stream in kept:
                source.refill()
            else:
                source.finish()
        for sink in list(self._sinks.values()):
            if sink.stream not in kept:
                sink.close()
                self.forget_sink(sink.stream)
        if self._later is not None:
            self._later = bytearray()
        for source in self._sources.values():
            source.arrange()
        return {str(sink.stream): sink.waiting for sink in self._sinks.values()}

    def _flush(self) -> None:
        was_congested = self.congested
        try:
            while self._out or self._pay():
                del self._out[: os.write(self.fd, memoryview(self._out)[: 4 * CHUNK])]
        except BlockingIOError:
            pass
        except OSError as error:
            self.lose(f"cannot send: {error.strerror}")
            return
        self.loop.watch(self.fd, READ | WRITE if self._out else READ, self._ready)
        if was_congested and not self.congested:
            for source in list(self._sources.values()):
                if source.last_drain:
                    source.drain()
                source.arrange()

    # Receiving

    def _ready(self, _fd: int, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & (READ | GONE) and not self.lost:
            try:
                data = os.read(self.fd, _READ)
            except BlockingIOError:
                return
            except OSError as error:
                self.lose(f"cannot receive: {error.strerror}")
                return
            if not data:
                self.lose("the other end has gone")
                return
            self.feed(data)

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except ProtocolFault as fault:
            self.lose(fault.message)

    def _take(self, frame: Frame) -> None:
        kind, stream, data = frame
        if kind in (PART, END):
            if stream or len(self._message) + len(data) > self._most_message:
                raise ProtocolFault("a message is too long")
            self._message += data
            if kind == END:
                whole, self._message = bytes(self._message), bytearray()
                self._on_message(parse_message(whole))
        elif kind in (DATA, EOF):
            sink = self._sinks.get(stream)
            if sink is None:
                raise ProtocolFault(f"bytes for stream {stream}, which nobody opened")
            if kind == DATA:
                sink.take(data)
            else:
                sink.end()
        else:
            # A source may just have ended by itself: then there is nobody to tell.
            source = self._sources.get(stream)
            if kind == ACK and len(data) != _LENGTH.size:
                raise ProtocolFault("malformed acknowledgement")
            if source is not None:
                if kind == ACK:
                    source.credited(_LENGTH.unpack(data)[0])
                else:
                    source.finish()

    def lose(self, reason: str) -> None:
        """Give the line up: close what hangs on it."""
        if self.lost:
            return
        self.lost = True
        self.loop.drop(self.fd)
        for source in list(self._sources.values()):
            source.finish()
        for sink in list(self._sinks.values()):
            sink.close()
        self._sinks.clear()
        self._on_lost(reason)


def wait_readable(fd: int, seconds: float) -> bool:
    """Whether something can be read from `fd` within the time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
