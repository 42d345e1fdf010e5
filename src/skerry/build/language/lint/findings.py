"""What the parts of the lint work with."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from skerry.build.language.instructions import Dockerfile
from skerry.build.language.position import Span


class Finding(NamedTuple):
    """A rule, what is wrong, and where."""

    rule: str
    text: str
    span: Span


Findings = Iterator[Finding]


class Surroundings(NamedTuple):
    """What a build knows beyond the file. Everything is optional."""

    build_args: Mapping[str, str] = {}
    contexts: Collection[str] = ()
    """Names that --build-context gives."""
    environments: Mapping[str, Collection[str]] = {}
    """Base image to the names of its variables, where they are known."""
    ignored: Callable[[str], bool] | None = None
    """Whether .dockerignore leaves a path out."""
    foreign: Mapping[str, tuple[str, str]] = {}
    """Base image to its platform and the one that is built for, where they differ."""


Part = Callable[[Dockerfile, Surroundings], Findings]
