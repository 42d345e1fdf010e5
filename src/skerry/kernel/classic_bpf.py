"""An assembler for classic BPF programs that decide: loads, comparisons, returns, forward jumps.

Classic BPF only jumps forward, and a conditional jump reaches at most 255 instructions. So a
program is put together from its end: every target exists before the jump to it, its distance is
known at once, and a target out of reach gets an unconditional jump (32-bit distance) in between.
A *label* is the index of an instruction counted from the end.

Source: linux/filter.h, Documentation/networking/filter.rst.
"""

import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from skerry.base.errors import LimitExceeded

MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS, linux/bpf_common.h."""

LOAD = 0x20
"""BPF_LD | BPF_W | BPF_ABS"""
AND = 0x54
"""BPF_ALU | BPF_AND | BPF_K"""
RETURN = 0x06
"""BPF_RET | BPF_K"""
JUMP = 0x05
"""BPF_JMP | BPF_JA"""
EQUAL, GREATER, AT_LEAST = 0x15, 0x25, 0x35
"""BPF_JMP | BPF_JEQ, BPF_JGT, BPF_JGE, each with BPF_K."""

# One short of 255 for each of the two jumps that may have to be put in between.
_REACH = 253

Leaf = TypeVar("Leaf")


class Assembler:
    """Collects instructions from the last to the first."""

    def __init__(self) -> None:
        self._backwards: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, int] = {}

    def _emit(self, code: int, k: int, yes: int = 0, no: int = 0) -> int:
        self._backwards.append((code, yes, no, k))
        return len(self._backwards) - 1

    def _distance(self, label: int) -> int:
        return len(self._backwards) - label - 1

    def ret(self, value: int) -> int:
        """Label of an instruction near by that returns `value`."""
        label = self._returns.get(value)
        if label is None or self._distance(label) > _REACH - 1:
            label = self._returns[value] = self._emit(RETURN, value)
        return label

    def _near(self, label: int) -> int:
        distance = self._distance(label)
        return label if distance <= _REACH else self._emit(JUMP, distance)

    def _fall_into(self, label: int) -> None:
        distance = self._distance(label)
        if distance:
            self._emit(JUMP, distance)

    def compare(self, code: int, k: int, yes: int, no: int) -> int:
        """Go on at `yes` when the accumulator compares so with `k`, else at `no`."""
        if yes == no:
            return yes
        yes = self._near(yes)
        no = self._near(no)
        return self._emit(code, k, self._distance(yes), self._distance(no))

    def load(self, offset: int, then: int) -> int:
        """Load the 32-bit word at `offset` into the accumulator and go on at `then`."""
        self._fall_into(then)
        return self._emit(LOAD, offset)

    def mask(self, bits: int, then: int) -> int:
        """Keep only `bits` of the accumulator and go on at `then`."""
        self._fall_into(then)
        return self._emit(AND, bits)

    def search(self, ranges: Sequence[tuple[int, Leaf]], leaf: Callable[[Leaf], int]) -> int:
        """Binary search of the accumulator.

        `ranges` is sorted; each entry holds from its start up to the next one's start, the first
        from 0. `leaf` gives the label that serves an entry.
        """
        if len(ranges) == 1:
            return leaf(ranges[0][1])
        middle = len(ranges) // 2
        above = self.search(ranges[middle:], leaf)
        below = self.search(ranges[:middle], leaf)
        return self.compare(AT_LEAST, ranges[middle][0], above, below)

    def program(self, entry: int) -> bytes:
        """The finished `struct sock_filter` array, which starts at `entry`."""
        self._fall_into(entry)
        if len(self._backwards) > MAX_INSTRUCTIONS:
            raise LimitExceeded(
                f"seccomp profile needs {len(self._backwards)} instructions, "
                f"the kernel takes {MAX_INSTRUCTIONS}",
                hint="use fewer rules with argument conditions",
            )
        return b"".join(struct.pack("=HBBI", *word) for word in reversed(self._backwards))
