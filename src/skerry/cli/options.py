"""Command lines as tables: what a command takes, and a parser for exactly that.

The forms are those of Docker's command line (Go's pflag): `--name value`, `--name=value`, `-n
value`, `-nvalue`, `-n=value`, grouped switches `-it`, `--switch=false`, and `--` ends the options.
The same tables make the help, the manual (docs/cli.md) and the shell completions.
"""

from __future__ import annotations

from skerry.base.errors import InvalidInput
from skerry.base.truths import FALSE, TRUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from skerry.cli.context import Context

SWITCH, TEXT, LIST, NUMBER = "switch", "text", "list", "number"


class UsageError(InvalidInput):
    """The command line itself is wrong. `exit_code` is Docker's for the case."""

    def __init__(self, message: str, *, exit_code: int = 125, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class Option:
    """One option. `short` is a letter or empty; `complete` names what its value may be."""

    __slots__ = ("complete", "help", "kind", "long", "metavar", "short")

    def __init__(
        self, kind: str, long: str, short: str, help_: str, metavar: str, complete: str
    ) -> None:
        self.kind = kind
        self.long = long
        self.short = short
        self.help = help_
        self.metavar = metavar
        self.complete = complete

    @property
    def shown(self) -> str:
        """As messages name it: `-n, --name`."""
        return f"-{self.short}, --{self.long}" if self.short else f"--{self.long}"


def switch(long: str, help_: str, short: str = "") -> Option:
    """On or off."""
    return Option(SWITCH, long, short, help_, "", "")


def text(long: str, help_: str, metavar: str, short: str = "", complete: str = "") -> Option:
    """One value; the last one given counts."""
    return Option(TEXT, long, short, help_, metavar, complete)


def many(long: str, help_: str, metavar: str, short: str = "", complete: str = "") -> Option:
    """May be given again and again."""
    return Option(LIST, long, short, help_, metavar, complete)


def number(long: str, help_: str, metavar: str = "N", short: str = "") -> Option:
    """A whole number."""
    return Option(NUMBER, long, short, help_, metavar, "")


class Parsed:
    """What was given. Accessors answer for options that were not given, too."""

    __slots__ = ("_lists", "_numbers", "_switches", "_texts", "arguments", "given")

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self.given: set[str] = set()
        self._texts: dict[str, str] = {}
        self._lists: dict[str, list[str]] = {}
        self._numbers: dict[str, int] = {}
        self._switches: dict[str, bool] = {}

    def on(self, name: str, default: bool = False) -> bool:
        """A switch."""
        return self._switches.get(name, default)

    def text(self, name: str, default: str = "") -> str:
        """A text option's value."""
        return self._texts.get(name, default)

    def many(self, name: str) -> list[str]:
        """All values of a repeatable option, in order."""
        return self._lists.get(name, [])

    def number(self, name: str, default: int = 0) -> int:
        """A number option's value."""
        return self._numbers.get(name, default)

    def put(self, option: Option, value: str) -> None:
        """Take one value; UsageError when its kind does not allow it."""
        name = option.long
        self.given.add(name)
        if option.kind == TEXT:
            self._texts[name] = value
        elif option.kind == LIST:
            self._lists.setdefault(name, []).append(value)
        elif option.kind == SWITCH:
            if value not in TRUE and value not in FALSE:
                raise bad_value(option, value, "write true or false")
            self._switches[name] = value in TRUE
        else:
            try:
                if len(value) > 20:
                    raise ValueError
                self._numbers[name] = int(value, 0)
            except ValueError:
                raise bad_value(option, value, "not a whole number") from None


def bad_value(option: Option, value: str, why: str) -> UsageError:
    """In the words of Docker's command line."""
    return UsageError(f'invalid argument "{value}" for "{option.shown}" flag: {why}')


class Command:
    """A command: its table and the function that does it."""

    __slots__ = (
        "complete",
        "intermixed",
        "least",
        "most",
        "options",
        "run",
        "summary",
        "synopsis",
        "text",
        "verbatim",
    )

    def __init__(
        self,
        run: Callable[[Context, Parsed], int],
        summary: str,
        synopsis: str = "",
        options: tuple[Option, ...] = (),
        *,
        least: int = 0,
        most: int | None = None,
        intermixed: bool = True,
        complete: str = "",
        text: str = "",
        verbatim: bool = False,
    ) -> None:
        """`least` and `most` bound the arguments (None: no upper bound); `intermixed` allows
        options after arguments; `complete` names what the arguments are, one word each, the last
        one for all that follow; `text` is more to say in the help; with `verbatim` nothing is
        parsed."""
        self.run = run
        self.summary = summary
        self.synopsis = synopsis
        self.options = options
        self.least = least
        self.most = most
        self.intermixed = intermixed
        self.complete = complete
        self.text = text
        self.verbatim = verbatim


HELP = switch("help", "Show this help")


def parse(options: tuple[Option, ...], words: list[str], *, intermixed: bool = True) -> Parsed:
    """Sort `words` into options and arguments. `--help` is understood everywhere.

    UsageError (exit code 125) in pflag's words.
    """
    by_long = {option.long: option for option in options}
    by_long.setdefault("help", HELP)
    by_short = {option.short: option for option in options if option.short}
    parsed = Parsed()
    at, count = 0, len(words)
    while at < count:
        word = words[at]
        at += 1
        if word == "--":
            parsed.arguments += words[at:]
            break
        if word.startswith("--"):
            at = _long(parsed, by_long, words, at, word)
        elif word.startswith("-") and word != "-":
            at = _short(parsed, by_short, words, at, word)
        else:
            parsed.arguments.append(word)
            if not intermixed:
                parsed.arguments += words[at:]
                break
    return parsed


def _long(parsed: Parsed, by_long: dict[str, Option], words: list[str], at: int, word: str) -> int:
    name, equals, value = word[2:].partition("=")
    option = by_long.get(name)
    if option is None:
        raise UsageError(f"unknown flag: --{name}")
    if not equals:
        if option.kind == SWITCH:
            value = "true"
        elif at < len(words):
            value = words[at]
            at += 1
        else:
            raise UsageError(f"flag needs an argument: --{name}")
    parsed.put(option, value)
    return at


def _short(
    parsed: Parsed, by_short: dict[str, Option], words: list[str], at: int, word: str
) -> int:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = by_short.get(letter)
        if option is None:
            if letter == "h" and "h" not in by_short:
                parsed.put(HELP, "true")
                continue
            raise UsageError(f"unknown shorthand flag: {letter!r} in {word}")
        if option.kind == SWITCH:
            if letters.startswith("="):
                parsed.put(option, letters[1:])
                return at
            parsed.put(option, "true")
            continue
        if letters:
            parsed.put(option, letters.removeprefix("="))
            return at
        if at >= len(words):
            raise UsageError(f"flag needs an argument: {letter!r} in {word}")
        parsed.put(option, words[at])
        return at + 1
    return at


def check_count(path: str, command: Command, parsed: Parsed) -> None:
    """UsageError (exit code 1) when there are too few or too many arguments, in Docker's words."""
    have, least, most = len(parsed.arguments), command.least, command.most
    if have >= least and (most is None or have <= most):
        return
    if most == 0:
        wanted = "accepts no arguments"
    elif least == most:
        wanted = f"requires {least} argument{'s' * (least != 1)}"
    elif have < least:
        wanted = f"requires at least {least} argument{'s' * (least != 1)}"
    else:
        wanted = f"requires at most {most} argument{'s' * (most != 1)}"
    raise UsageError(f"'skerry {path}' {wanted}", exit_code=1)
