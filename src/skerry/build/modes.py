"""`--chmod`: octal numbers and chmod(1)'s symbolic form, as a function of the old mode."""

import re
from typing import Final, NamedTuple

from skerry.base.errors import InvalidInput

_OCTAL: Final = re.compile(r"[0-7]{1,5}")
_CLAUSE: Final = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*|[-+=][ugo])+)")
_ACTION: Final = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFT: Final = {"u": 6, "g": 3, "o": 0}
_BITS: Final = {"r": 4, "w": 2, "x": 1}


class Change(NamedTuple):
    """One action on one class of users: `who` is of `ugo`, `bits` of `rwxXst` or one of `ugo`."""

    who: str
    operation: str
    bits: str


class Mode(NamedTuple):
    """A parsed `--chmod`: a number, or changes."""

    number: int
    changes: tuple[Change, ...] = ()

    def apply(self, mode: int, *, directory: bool) -> int:
        """The new permission bits."""
        if not self.changes:
            return self.number
        for change in self.changes:
            mode = _apply(mode, change, directory=directory)
        return mode


def parse(text: str) -> Mode:
    """InvalidInput for what is neither form."""
    if _OCTAL.fullmatch(text):
        number = int(text, 8)
        if number <= 0o7777:
            return Mode(number)
    changes = []
    for clause in text.split(","):
        found = _CLAUSE.fullmatch(clause)
        if not found:
            raise InvalidInput(
                f"invalid chmod parameter: {text!r:.80}",
                hint="write an octal number such as 644, or u=rwX,go=rX",
            )
        who = found[1].replace("a", "ugo") or "ugo"
        for operation, bits in _ACTION.findall(found[2]):
            changes += [Change(each, operation, bits) for each in dict.fromkeys(who)]
    return Mode(0, tuple(changes))


def _apply(mode: int, change: Change, *, directory: bool) -> int:
    shift = _SHIFT[change.who]
    special = 0
    if change.bits in _SHIFT:
        bits = mode >> _SHIFT[change.bits] & 7
    else:
        bits = 0
        for letter in change.bits:
            bits |= _BITS.get(letter, 0)
            if letter == "X" and (directory or mode & 0o111):
                bits |= 1
            elif letter == "s":
                special |= {"u": 0o4000, "g": 0o2000}.get(change.who, 0)
            elif letter == "t" and change.who == "o":
                special |= 0o1000
    if change.operation == "+":
        return mode | bits << shift | special
    if change.operation == "-":
        return mode & ~(bits << shift | special)
    cleared = 7 << shift | {"u": 0o4000, "g": 0o2000, "o": 0o1000}[change.who]
    if directory and change.who != "o":
        # As GNU chmod: setuid and setgid of a directory stay unless they are named.
        cleared = 7 << shift
    return mode & ~cleared | bits << shift | special
