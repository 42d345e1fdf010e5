"""Command line options by table, with the forms that callers of OCI runtimes use.

`--name value`, `--name=value`, one or two dashes, `--switch=false`, `--` ends the options. argparse
would cost more time than making a container.
"""

from skerry.base.errors import InvalidInput
from skerry.base.light import NamedTuple

SWITCH = "switch"
VALUE = "value"
LIST = "list"

_TRUE = ("true", "1", "t")
_FALSE = ("false", "0", "f")


class Parsed(NamedTuple):
    """What was given: switches that are on, values, lists, and the other words."""

    switches: frozenset[str]
    values: dict[str, str]
    lists: dict[str, list[str]]
    words: list[str]

    def value(self, name: str, default: str = "") -> str:
        """The value of an option."""
        return self.values.get(name, default)

    def number(self, name: str, default: int = 0) -> int:
        """The value of an option as a whole number; InvalidInput when it is none."""
        text = self.values.get(name)
        if text is None:
            return default
        try:
            return int(text)
        except ValueError:
            raise InvalidInput(f"invalid value {text!r:.60} for --{name}: not a number") from None


def parse(
    words: list[str],
    table: dict[str, str],
    short: dict[str, str] | None = None,
    *,
    command_follows: bool = False,
) -> Parsed:
    """Parse `words` by `table` (name to SWITCH, VALUE or LIST) and `short` (letter to name).

    Options may stand anywhere, unless `command_follows`: then the first other word ends them.
    Raises InvalidInput for what the table does not have.
    """
    switches: set[str] = set()
    values: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    rest: list[str] = []
    queue = list(reversed(words))
    while queue:
        word = queue.pop()
        if word == "--":
            rest += reversed(queue)
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if command_follows:
                rest += reversed(queue)
                break
            continue
        given, equals, value = word.lstrip("-").partition("=")
        name = (short or {}).get(given, given)
        kind = table.get(name)
        if kind is None:
            raise InvalidInput(f"flag provided but not defined: -{given:.60}")
        if kind == SWITCH:
            _switch(switches, name, value if equals else "true")
            continue
        if not equals:
            if not queue:
                raise InvalidInput(f"flag needs an argument: -{given}")
            value = queue.pop()
        if kind == LIST:
            lists.setdefault(name, []).append(value)
        else:
            values[name] = value
    return Parsed(frozenset(switches), values, lists, rest)


def _switch(switches: set[str], name: str, value: str) -> None:
    if value.lower() in _TRUE:
        switches.add(name)
    elif value.lower() in _FALSE:
        switches.discard(name)
    else:
        raise InvalidInput(f"invalid boolean value {value!r:.60} for -{name}")


def exactly(words: list[str], count: int, usage: str) -> list[str]:
    """`words` when there are `count` of them, else InvalidInput with the usage."""
    if len(words) != count:
        raise InvalidInput(
            f"needs {count} argument{'s' if count != 1 else ''}, got {len(words)}",
            hint=f"usage: {usage}",
        )
    return words
