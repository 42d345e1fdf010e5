"""Which variables an instruction sees (Dockerfile reference, "ARG": scope, predefined ARGs).

An ARG before the first FROM is for FROM lines only, until a stage declares it again. In a stage,
ENV wins over an ARG of the same name. The proxies need no ARG, and are kept out of history and
cache unless they are declared.
"""

from collections.abc import Mapping
from typing import Final

from skerry.build.language.instructions import Arg
from skerry.build.language.lexer import Lexer

PROXIES: Final = frozenset(
    name
    for word in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (word, word.lower())
)


def platform_arguments(build: str, target: str, stage: str = "") -> dict[str, str]:
    """The predefined arguments of two platforms, `os/architecture[/variant]`."""
    found: dict[str, str] = {}
    for side, platform in (("BUILD", build), ("TARGET", target)):
        os, _, rest = platform.partition("/")
        architecture, _, variant = rest.partition("/")
        found |= {
            f"{side}PLATFORM": platform,
            f"{side}OS": os,
            f"{side}ARCH": architecture,
            f"{side}VARIANT": variant,
        }
    found["TARGETSTAGE"] = stage or "default"
    return found


class Globals:
    """The arguments before the first FROM. `given` are the build's own (--build-arg)."""

    def __init__(
        self,
        arguments: tuple[Arg, ...],
        given: Mapping[str, str],
        predefined: Mapping[str, str],
        lexer: Lexer,
    ) -> None:
        self.given = given
        self.predefined = predefined
        self.values: dict[str, str] = {}
        self.declared: set[str] = set()
        for argument in arguments:
            for name, default in argument.pairs:
                self.declared.add(name)
                if name in given:
                    self.values[name] = given[name]
                elif default is not None:
                    self.values[name] = lexer.word(default, {**predefined, **self.values})
                elif name in predefined:
                    self.values[name] = predefined[name]

    def variables(self) -> dict[str, str]:
        """What FROM lines see."""
        return {**self.predefined, **self.values}


class Scope:
    """The arguments of one stage, as far as they are declared."""

    def __init__(self, outer: Globals, lexer: Lexer) -> None:
        self._outer = outer
        self._lexer = lexer
        self.arguments: dict[str, str | None] = {}
        """Name to value, in the order of their declaration; None where there is no value."""

    def declare(self, name: str, default: str | None, environment: Mapping[str, str]) -> str | None:
        """ARG name[=default]; the value that it has from now on."""
        outer = self._outer
        value: str | None
        if name in outer.given:
            value = outer.given[name]
        elif default is not None:
            value = self._lexer.word(default, self.variables(environment))
        elif name in outer.values:
            value = outer.values[name]
        else:
            value = outer.predefined.get(name)
        self.arguments.pop(name, None)
        self.arguments[name] = value
        return value

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What instructions are expanded with."""
        known = {name: value for name, value in self.arguments.items() if value is not None}
        return {**known, **environment}

    def run_arguments(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What a RUN sees besides the environment, in the order of declaration."""
        return {
            name: value
            for name, value in self.arguments.items()
            if value is not None and name not in environment
        }

    def hidden(self) -> dict[str, str]:
        """Proxies given to the build that no ARG declares."""
        given = self._outer.given
        return {
            name: value
            for name, value in given.items()
            if name in PROXIES and name not in self.arguments
        }
