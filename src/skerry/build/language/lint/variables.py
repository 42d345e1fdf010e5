"""Rules about variables, and about bases that are named by them."""

import contextlib
import json
from collections.abc import Collection, Iterator
from typing import Final

from skerry.base.errors import InvalidInput
from skerry.base.references import parse_reference
from skerry.build.language.faults import DockerfileFault, suggestion
from skerry.build.language.instructions import (
    Arg,
    Copy,
    Dockerfile,
    Env,
    Expose,
    From,
    Instruction,
    Label,
    Run,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from skerry.build.language.lexer import Lexer
from skerry.build.language.lint.findings import Finding, Findings, Surroundings
from skerry.build.language.scope import PROXIES, Globals, platform_arguments

_SOME_PLATFORM: Final = "linux/amd64"
_PLATFORMS: Final = frozenset(platform_arguments(_SOME_PLATFORM, _SOME_PLATFORM))
_ALWAYS: Final = PROXIES | {"PATH", "BUILDKIT_SYNTAX", "SOURCE_DATE_EPOCH"}


def bases(file: Dockerfile, around: Surroundings) -> Findings:
    """FROM: what its variables are, and its platform."""
    lexer = Lexer(file.escape)
    predefined = platform_arguments(_SOME_PLATFORM, _SOME_PLATFORM)
    defaults = _globals(file, {}, lexer)
    given = _globals(file, around.build_args, lexer)
    known = {*defaults.declared, *predefined}
    for stage in file.stages:
        base, span = stage.base, stage.base.source.span
        used = _used(lexer, base.base) | _used(lexer, base.platform)
        for name in sorted(used - known):
            text = f"FROM argument '{name}' is not declared{suggestion(name, known)}"
            yield Finding("UndefinedArgInFrom", text, span)
        yield from _default(base, lexer, defaults, given)
        yield from _platform(base)
        yield from _foreign(base, lexer, given, around)


def _foreign(base: From, lexer: Lexer, given: Globals, around: Surroundings) -> Findings:
    if base.platform or not around.foreign:
        return
    with contextlib.suppress(DockerfileFault):
        name = lexer.word(base.base, given.variables())
        if name in around.foreign:
            platform, expected = around.foreign[name]
            text = f'Base image {name} was pulled with platform "{platform}", expected "{expected}"'
            span = base.source.span
            yield Finding("InvalidBaseImagePlatform", f"{text} for current build", span)


def _globals(file: Dockerfile, given: object, lexer: Lexer) -> Globals:
    predefined = platform_arguments(_SOME_PLATFORM, _SOME_PLATFORM)
    try:
        return Globals(file.arguments, dict(given), predefined, lexer)  # type: ignore[call-overload]
    except DockerfileFault:
        return Globals((), {}, predefined, lexer)


def _used(lexer: Lexer, text: str) -> frozenset[str]:
    try:
        return lexer.expand(text, {}).used
    except DockerfileFault:
        # `${name:?message}` asks for a value; `bases` of a build say so themselves.
        return frozenset()


def _default(base: From, lexer: Lexer, defaults: Globals, given: Globals) -> Findings:
    used = _used(lexer, base.base) & defaults.declared
    if not used:
        return
    try:
        expanded = lexer.word(base.base, defaults.variables())
        if expanded:
            parse_reference(expanded)
            return
    except InvalidInput:
        pass
    empty = [name for name in sorted(used) if not defaults.values.get(name)]
    named = ", ".join(f"${name}" for name in empty or sorted(used))
    text = f"Default value for ARG {named} results in empty or invalid base image name"
    yield Finding("InvalidDefaultArgInFrom", text, base.source.span)


def _platform(base: From) -> Findings:
    value = base.platform
    if value in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        text = f"Setting platform to predefined {value} in FROM is redundant as this is the default"
        yield Finding("RedundantTargetPlatform", f"{text} behavior", base.source.span)
    elif value and "$" not in value:
        # A stage that says in its name which platform it is for is chosen by a variable.
        if any(part in base.name for part in value.split("/")):
            return
        text = f"FROM --platform flag should not use constant value {json.dumps(value)}"
        yield Finding("FromPlatformFlagConstDisallowed", text, base.source.span)


def undefined(file: Dockerfile, around: Surroundings) -> Findings:
    """Variables that neither ARG, ENV nor the base image gives. Of a base whose environment is not
    known only names close to a known one are doubted."""
    lexer = Lexer(file.escape)
    known: dict[str, tuple[set[str], bool]] = {}
    for stage in file.stages:
        names, sure = _begin(stage, known, around)
        for each in stage.instructions:
            for text in _expanded(each):
                yield from _doubted(lexer, text, each, names, sure=sure)
            if isinstance(each, Arg | Env):
                names |= {name for name, _ in each.pairs}
        if stage.base.name:
            known[stage.base.name] = (names, sure)


def _begin(
    stage: Stage, known: dict[str, tuple[set[str], bool]], around: Surroundings
) -> tuple[set[str], bool]:
    base = stage.base.base
    if base.lower() in known:
        names, sure = known[base.lower()]
        return set(names), sure
    if base == "scratch":
        return set(_ALWAYS), True
    if base in around.environments:
        return {*_ALWAYS, *around.environments[base]}, True
    return set(_ALWAYS), False


def _doubted(
    lexer: Lexer, text: str, each: Instruction, names: Collection[str], *, sure: bool
) -> Findings:
    for name in sorted(_used(lexer, text) - set(names)):
        near = suggestion(name, names).replace("mean ", "mean $")
        # Platforms are predefined, but only for stages that declare them.
        if sure or (near and name not in _PLATFORMS):
            yield Finding(
                "UndefinedVar", f"Usage of undefined variable '${name}'{near}", each.source.span
            )


def _expanded(each: Instruction) -> Iterator[str]:
    """The texts of an instruction in which variables are replaced."""
    match each:
        case Arg():
            yield from (value for _, value in each.pairs if value)
        case Env() | Label():
            for name, value in each.pairs:
                yield name
                yield value
        case Copy():
            yield from (*each.sources, each.target, each.chown, each.chmod, each.from_)
            yield from (*each.exclude, each.checksum)
            yield from (document.content for document in each.documents if document.expand)
        case Run():
            yield from each.mounts
        case Expose():
            yield from each.ports
        case Volume():
            yield from each.paths
        case User():
            yield each.user
        case Workdir():
            yield each.path
        case StopSignal():
            yield each.signal
