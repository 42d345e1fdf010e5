"""From logical lines to instructions and stages. A table says how each instruction is read."""

import json
import re
from collections.abc import Callable
from typing import Final

from skerry.build.language import durations, lines
from skerry.build.language.arrays import NotStrings, json_list
from skerry.build.language.faults import DockerfileFault, suggestion
from skerry.build.language.fields import (
    FlagSet,
    Rest,
    pairs,
    plain_words,
    split,
    words,
)
from skerry.build.language.instructions import (
    Arg,
    Cmd,
    Command,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    HealthCheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Remark,
    Run,
    Shell,
    Source,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from skerry.build.language.lines import Line

MAX_STAGES: Final = 1000
_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")
_FLAGS: dict[str, frozenset[str]] = {
    "FROM": frozenset(("platform",)),
    "RUN": frozenset(("mount", "network", "security", "device")),
    "COPY": frozenset(("from", "chown", "chmod", "link", "parents", "exclude")),
    "ADD": frozenset(("chown", "chmod", "link", "keep-git-dir", "checksum", "exclude", "unpack")),
    "HEALTHCHECK": frozenset(("interval", "timeout", "start-period", "start-interval", "retries")),
}
_NO_FLAGS: frozenset[str] = frozenset()


def parse(data: bytes) -> Dockerfile:
    """A Dockerfile. DockerfileFault with its place and the source around it, LimitExceeded."""
    text = lines.read(data)
    try:
        return _Parser(text).parse()
    except DockerfileFault as fault:
        raise fault.within(text.physical) from None


def parse_trigger(text: str) -> tuple[Instruction, ...]:
    """The instruction that an image's ONBUILD keeps. DockerfileFault."""
    found = lines.read(text.encode("utf-8", "surrogateescape"))
    made = []
    for line in found.logical:
        keyword = line.text.split(None, 1)[0].upper()
        if keyword in ("FROM", "ONBUILD", "MAINTAINER"):
            raise DockerfileFault(f"{keyword} isn't allowed as an ONBUILD trigger", line.span)
        made.append(instruction(line, found.escape))
    return tuple(made)


class _Parser:
    def __init__(self, text: lines.Text) -> None:
        self._text = text
        self._remarks: list[Remark] = list(text.remarks)
        self._stages: list[Stage] = []
        self._arguments: list[Arg] = []

    def parse(self) -> Dockerfile:
        begun: From | None = None
        inside: list[Instruction] = []
        for line in self._text.logical:
            keyword = line.text.split(None, 1)[0].upper()
            if keyword == "FROM":
                if begun is not None:
                    self._end(begun, inside)
                begun, inside = _from(line, self._text.escape), []
                continue
            made = instruction(line, self._text.escape)
            if begun is not None:
                inside.append(made)
            elif isinstance(made, Arg):
                self._arguments.append(made)
            else:
                raise DockerfileFault(
                    "no build stage in current context",
                    line.span,
                    hint="a Dockerfile begins with FROM; only ARG may stand before it",
                )
        if begun is None:
            raise DockerfileFault("no build stage in current context", self._text.logical[-1].span)
        self._end(begun, inside)
        return Dockerfile(
            tuple(self._stages),
            tuple(self._arguments),
            self._text.escape,
            self._text.syntax,
            self._text.check,
            self._text.physical,
            tuple(self._remarks),
        )

    def _end(self, base: From, inside: list[Instruction]) -> None:
        if len(self._stages) >= MAX_STAGES:
            raise DockerfileFault(f"more than {MAX_STAGES} stages", base.source.span)
        self._stages.append(Stage(len(self._stages), base, tuple(inside)))


def instruction(line: Line, escape: str) -> Instruction:
    """One logical line that is not FROM."""
    keyword, rest = split(line, escape)
    upper = keyword.upper()
    read = _READERS.get(upper)
    if read is None:
        near = suggestion(upper, [*_READERS, "FROM"])
        raise DockerfileFault(
            f"unknown instruction: {keyword[:40]}{near}", line.place(0, len(keyword))
        )
    flags = FlagSet(rest, upper, _FLAGS.get(upper, _NO_FLAGS))
    source = Source(line.text, line.span, rest.flags, line.comments, keyword)
    try:
        return read(source, rest, flags, escape)
    except DockerfileFault as fault:
        if fault.span is None:
            raise DockerfileFault(fault.reason, line.span, hint=fault.hint) from None
        raise


def _from(line: Line, escape: str) -> From:
    keyword, rest = split(line, escape)
    flags = FlagSet(rest, "FROM", _FLAGS["FROM"])
    found = plain_words(rest)
    source = Source(line.text, line.span, rest.flags, line.comments, keyword)
    if len(found) == 3 and found[1].text.upper() == "AS":
        name = found[2].text.lower()
        if not _STAGE_NAME.fullmatch(name):
            raise DockerfileFault(
                f"invalid name for build stage: {json.dumps(found[2].text)}, name can't start "
                "with a number or contain symbols",
                line.place(found[2].offset, len(found[2].text)),
            )
    elif len(found) == 1:
        name = ""
    else:
        raise DockerfileFault("FROM requires either one or three arguments", line.span)
    return From(source, found[0].text, name, flags.one("platform"))


def _needs(rest: Rest, keyword: str) -> None:
    if not rest.text:
        raise DockerfileFault(f"{keyword} requires at least one argument", rest.line.span)


def _one(rest: Rest, keyword: str) -> str:
    if not rest.text:
        raise DockerfileFault(f"{keyword} requires exactly one argument", rest.line.span)
    return rest.text


def _arg(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Arg:
    _needs(rest, "ARG")
    found: list[tuple[str, str | None]] = []
    for word in words(rest, escape):
        name, equals, value = word.text.partition("=")
        if not name:
            raise DockerfileFault(
                "ARG names can not be blank", rest.line.place(word.offset, len(word.text))
            )
        found.append((name, value if equals else None))
    return Arg(source, tuple(found))


def _env(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Env:
    _needs(rest, "ENV")
    return Env(source, *pairs(rest, escape, "ENV"))


def _label(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Label:
    _needs(rest, "LABEL")
    return Label(source, *pairs(rest, escape, "LABEL"))


def _command(rest: Rest) -> Command:
    found = json_list(rest.text)
    if found is not None:
        return Command(found, False)
    return Command((rest.text,) if rest.text else (), True)


def _run(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Run:
    command = _command(rest)
    if not command.args or command.args == ("",):
        raise DockerfileFault("RUN requires at least one argument", rest.line.span)
    network = flags.one("network")
    if network not in ("", "default", "none", "host"):
        raise DockerfileFault(f"invalid network mode: {network}", flags.place("network"))
    security = flags.one("security")
    if security not in ("", "sandbox", "insecure"):
        raise DockerfileFault(f"security {security} is not valid", flags.place("security"))
    if flags.many("device"):
        raise DockerfileFault("RUN --device is not supported", flags.place("device"))
    return Run(source, command, rest.line.documents, flags.many("mount"), network, security)


def _copy(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Copy:
    add = source.keyword.upper() == "ADD"
    keyword = "ADD" if add else "COPY"
    found = json_list(rest.text)
    given = list(found) if found is not None else [each.text for each in words(rest, escape)]
    if not given:
        raise DockerfileFault(f"{keyword} requires at least one argument", rest.line.span)
    if len(given) < 2:
        raise DockerfileFault(
            f"{keyword} requires at least two arguments, but only one was provided. Destination "
            "could not be determined",
            rest.line.span,
        )
    documents = rest.line.documents if found is None else ()
    sources = tuple(
        word
        for word in given[:-1]
        if not (documents and lines.here_document(word, escape) is not None)
    )
    made = Copy(
        source,
        sources,
        given[-1],
        documents,
        add,
        chown=flags.one("chown"),
        chmod=flags.one("chmod"),
        link=bool(flags.switch("link")),
        exclude=flags.many("exclude"),
    )
    if add:
        return made._replace(
            checksum=flags.one("checksum"),
            keep_git_dir=flags.switch("keep-git-dir"),
            unpack=flags.switch("unpack"),
        )
    return made._replace(from_=flags.one("from"), parents=bool(flags.switch("parents")))


def _cmd(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Cmd:
    return Cmd(source, _command(rest))


def _entrypoint(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Entrypoint:
    return Entrypoint(source, _command(rest))


def _shell(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Shell:
    found = json_list(rest.text)
    if found is None:
        raise DockerfileFault(
            "SHELL requires the arguments to be in JSON form",
            rest.line.span,
            hint='as in SHELL ["/bin/bash", "-c"]',
        )
    if not found:
        raise DockerfileFault("SHELL requires at least one argument", rest.line.span)
    return Shell(source, found)


def _health(source: Source, rest: Rest, flags: FlagSet, escape: str) -> HealthCheck:
    _needs(rest, "HEALTHCHECK")
    kind, _, text = rest.text.partition(" ")
    if kind.upper() == "NONE":
        if text.strip():
            raise DockerfileFault("HEALTHCHECK NONE takes no arguments", rest.line.span)
        return HealthCheck(source, None)
    if kind.upper() != "CMD":
        raise DockerfileFault(
            f"Unknown type {json.dumps(kind[:40])} in HEALTHCHECK (try CMD)", rest.line.span
        )
    command = _command(rest._replace(text=text.strip()))
    if not command.args:
        raise DockerfileFault("Missing command after HEALTHCHECK CMD", rest.line.span)

    def duration(name: str) -> int:
        value = flags.one(name)
        found = durations.parse(value) if value else 0
        if 0 < found < 1_000_000:
            raise DockerfileFault(
                f"Interval {json.dumps(name)} cannot be less than 1ms", flags.place(name)
            )
        return found

    retries = flags.one("retries")
    if retries and not (retries.isascii() and retries.isdigit() and len(retries) < 10):
        raise DockerfileFault(
            f"--retries must be at least 0 (not {retries[:20]})", flags.place("retries")
        )
    return HealthCheck(
        source,
        command,
        duration("interval"),
        duration("timeout"),
        duration("start-period"),
        duration("start-interval"),
        int(retries or 0),
    )


def _expose(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Expose:
    _needs(rest, "EXPOSE")
    return Expose(source, tuple(word.text for word in plain_words(rest)))


def _volume(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Volume:
    _needs(rest, "VOLUME")
    found = json_list(rest.text)
    paths = found if found is not None else tuple(each.text for each in words(rest, escape))
    if not paths or not all(path.strip() for path in paths):
        raise DockerfileFault("VOLUME specified can not be an empty string", rest.line.span)
    return Volume(source, paths)


def _user(source: Source, rest: Rest, flags: FlagSet, escape: str) -> User:
    return User(source, _one(rest, "USER"))


def _workdir(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Workdir:
    return Workdir(source, _one(rest, "WORKDIR"))


def _stop_signal(source: Source, rest: Rest, flags: FlagSet, escape: str) -> StopSignal:
    return StopSignal(source, _one(rest, "STOPSIGNAL"))


def _maintainer(source: Source, rest: Rest, flags: FlagSet, escape: str) -> Maintainer:
    return Maintainer(source, _one(rest, "MAINTAINER"))


def _onbuild(source: Source, rest: Rest, flags: FlagSet, escape: str) -> OnBuild:
    _needs(rest, "ONBUILD")
    keyword = rest.text.split(None, 1)[0].upper()
    if keyword == "ONBUILD":
        raise DockerfileFault(
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", rest.line.span
        )
    if keyword in ("FROM", "MAINTAINER"):
        raise DockerfileFault(f"{keyword} isn't allowed as an ONBUILD trigger", rest.line.span)
    inner = Line(rest.text, rest.line.span, (), rest.line.documents)
    # Only to find its mistakes now, not in the build that uses the image.
    instruction(inner, escape)
    documents = "".join(f"\n{each.content}{each.name}" for each in rest.line.documents)
    return OnBuild(source, rest.text + documents)


_Reader = Callable[[Source, Rest, FlagSet, str], Instruction]
_READERS: dict[str, _Reader] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _health,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
KEYWORDS: Final = ("FROM", *sorted(_READERS))

__all__ = ["KEYWORDS", "NotStrings", "instruction", "parse", "parse_trigger"]
