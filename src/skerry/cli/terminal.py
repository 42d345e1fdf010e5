"""The user's terminal while a container has it: raw mode and back, its size, the detach keys."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROL_NAMES = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


class RawMode:
    """Raw mode of a terminal for the length of a with statement; restored on every way out.

    Output processing is off as well: the container's own terminal has already done it. Setting the
    mode from the background stops the process (SIGTTOU) until the shell brings it to the fore,
    which is what a user of job control expects.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> RawMode:
        self.enter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.restore()

    def enter(self) -> None:
        """Idempotent; also puts the mode back after a stop and continue."""
        import termios

        attributes = termios.tcgetattr(self.fd)
        if self._saved is None:
            self._saved = [*attributes[:6], list(attributes[6])]
        iflag, oflag, cflag, lflag = attributes[:4]
        # cfmakeraw of termios(3).
        iflag &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        oflag &= ~termios.OPOST
        lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        cflag = (cflag & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        controls = list(attributes[6])
        controls[termios.VMIN], controls[termios.VTIME] = 1, 0
        raw: list[Any] = [iflag, oflag, cflag, lflag, attributes[4], attributes[5], controls]
        termios.tcsetattr(self.fd, termios.TCSANOW, raw)

    def restore(self) -> None:
        """Idempotent; a terminal that has gone is no error."""
        if self._saved is None:
            return
        import termios

        saved, self._saved = self._saved, None
        try:
            # Without SIGTTOU ignored, restoring from the background would stop us for ever.
            import signal

            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            termios.tcsetattr(self.fd, termios.TCSADRAIN, saved)
            signal.signal(signal.SIGTTOU, before)
        except (termios.error, OSError):
            return


def size(fd: int) -> tuple[int, int]:
    """Rows and columns; (0, 0) when `fd` is no terminal."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns


def parse_keys(text: str) -> bytes:
    """The bytes of `ctrl-p,ctrl-q`, `ctrl-@`, `a,b`; InvalidInput for others."""
    keys = bytearray()
    for word in (text or DEFAULT_DETACH_KEYS).split(","):
        if len(word) == 1 and word.isascii():
            keys.append(ord(word))
        elif word.lower().startswith("ctrl-") and len(word) == 6:
            letter = word[5].lower()
            if "a" <= letter <= "z":
                keys.append(ord(letter) - 96)
            elif letter in _CONTROL_NAMES:
                keys.append(_CONTROL_NAMES[letter])
            else:
                raise _bad_keys(text)
        else:
            raise _bad_keys(text)
    return bytes(keys)


def _bad_keys(text: str) -> InvalidInput:
    return InvalidInput(
        f"invalid detach keys: {text!r}",
        hint="write them as ctrl-p,ctrl-q: letters, or ctrl- with a letter or one of @ [ \\ ] ^ _",
    )


class DetachKeys:
    """Watches input for the detach sequence, across the borders of reads.

    Bytes that could begin the sequence are held back until the next one decides.
    """

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to send on, whether the sequence is complete)."""
        if not self._keys:
            return data, False
        data = self._held + data
        found = data.find(self._keys)
        if found >= 0:
            self._held = b""
            return data[:found], True
        keep = 0
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                keep = length
                break
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep], False
