"""Progress of long work: bars that redraw on a terminal, plain lines in a log."""

from __future__ import annotations

from skerry.cli.context import terminal, visible, write
from skerry.cli.human import size_decimal
from skerry.cli.terminal import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AUTO, PLAIN, QUIET = "auto", "plain", "quiet"


class Progress:
    """Shows Docker's progress messages: {"id", "status", "progressDetail": {current, total}}."""

    def __init__(self, fd: int, *, quiet: bool = False, plain: bool | None = None) -> None:
        """On a terminal bars; elsewhere a line whenever an item's status changes."""
        self._fd = fd
        self._quiet = quiet
        self._bars = terminal(fd) if plain is None else not plain and terminal(fd)
        self._rows: dict[str, int] = {}
        self._last: dict[str, str] = {}

    def show(self, message: dict[str, Any]) -> None:
        """Take one message."""
        if self._quiet:
            return
        item, status = str(message.get("id") or ""), visible(str(message.get("status") or ""))
        if not status:
            return
        detail = message.get("progressDetail") or {}
        if not self._bars:
            if self._last.get(item) != status or not item:
                self._last[item] = status
                write(self._fd, f"{item + ': ' if item else ''}{status}\n".encode())
            return
        line = f"{item}: {status}" if item else status
        if isinstance(detail, dict) and detail.get("current"):
            line += " " + self._bar(int(detail["current"]), int(detail.get("total") or 0))
        self._draw(item, line)

    def _bar(self, current: int, total: int) -> str:
        if total <= 0:
            return size_decimal(current)
        width = 30
        done = min(width, current * width // total)
        arrow = "=" * done + (">" if done < width else "")
        return f"[{arrow:{width}}] {size_decimal(current)}/{size_decimal(total)}"

    def _draw(self, item: str, line: str) -> None:
        columns = size(self._fd)[1] or 80
        line = line[: columns - 1]
        if not item or item not in self._rows:
            if item:
                self._rows = {name: row + 1 for name, row in self._rows.items()}
                self._rows[item] = 1
            else:
                self._rows = {name: row + 1 for name, row in self._rows.items()}
            write(self._fd, f"{line}\n".encode())
            return
        up = self._rows[item]
        write(self._fd, f"\x1b[{up}A\r\x1b[2K{line}\x1b[{up}B\r".encode())

    def close(self) -> None:
        """The cursor already stands below the last row."""
        self._rows.clear()
