"""From the language to the builder: the plan of stages, and each instruction as an operation.

Expansion happens here, instruction by instruction, since the environment of a stage is known only
when its base is.
"""

import posixpath
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from skerry.base.architectures import architecture
from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.ignore import compile_rules
from skerry.build import mount_flags
from skerry.build.copying import Excluded
from skerry.build.language import instructions as words
from skerry.build.language import lines, parser, stages
from skerry.build.language.faults import DockerfileFault
from skerry.build.language.instructions import Dockerfile, Instruction
from skerry.build.language.lexer import Lexer
from skerry.build.language.scope import Globals, platform_arguments
from skerry.build.language.scope import Scope as Arguments
from skerry.build.operations import Configure, Copy, Operation, Run, Workdir
from skerry.build.ports import parse_ports
from skerry.build.repositories import is_remote
from skerry.build.request import Options
from skerry.build.state import variables, with_variables
from skerry.engine.signals import parse_signal

DOCUMENTS = "/dev/pipes"
"""Where a here-document with a `#!` line is mounted, as with BuildKit."""
DEFAULT_SHELL = ["/bin/sh", "-c"]
MAX_INSTRUCTIONS = 4000
"""Of one stage: images with more than 4,096 steps of history are not read anywhere."""


_REMEMBERED: Final = 64 << 10
"""Bytes of a Dockerfile that is not parsed anew when it is built again."""


class Stage(NamedTuple):
    """One stage that the target needs."""

    number: int
    name: str
    base: str
    base_stage: int
    """The stage it goes on from; -1 for none."""
    platform: str
    instructions: tuple[Instruction, ...]
    source: words.From


class Plan(NamedTuple):
    """What is to be built. `stages` come in an order in which each has what it needs before it."""

    stages: Mapping[int, Stage]
    target: int
    names: Mapping[str, int]
    dockerfile: Dockerfile
    globals: Globals


def read(
    data: bytes,
    options: Options,
    contexts: Collection[str],
    aliases: Mapping[str, str] = {},
) -> Plan:
    """The plan for a Dockerfile. DockerfileFault with the place and the source around it."""
    file = _parsed(data) if len(data) <= _REMEMBERED else parser.parse(data)
    here = f"linux/{architecture()}"
    given = {name: value for name, value in options.build_args.items() if value is not None}
    target = options.platform if "/" in options.platform else ""
    predefined = platform_arguments(here, target or here, options.target)
    try:
        globals = Globals(file.arguments, given, predefined, Lexer(file.escape))
    except DockerfileFault as fault:
        place = file.arguments[0].source.span if file.arguments else None
        raise DockerfileFault(fault.reason, fault.span or place).within(file.lines) from None
    graph = stages.plan(file, options.target, globals, contexts, aliases)
    found = {}
    for number in graph.order:
        node = graph.nodes[number]
        if len(node.stage.instructions) > MAX_INSTRUCTIONS:
            raise LimitExceeded(
                f"stage {node.stage.label} has {len(node.stage.instructions)} instructions, "
                f"at most {MAX_INSTRUCTIONS}"
            )
        found[number] = Stage(
            number,
            node.stage.base.name,
            node.base,
            -1 if node.base_stage is None else node.base_stage,
            node.platform,
            node.stage.instructions,
            node.stage.base,
        )
    return Plan(found, graph.target, graph.names, file, globals)


def unconsumed(plan: Plan, options: Options, more: Collection[str]) -> list[str]:
    """Build arguments that no ARG declares; `more` are those that triggers declare."""
    instructions = [each for stage in plan.stages.values() for each in stage.instructions]
    listed = [*plan.dockerfile.arguments, *instructions]
    known = {name for each in listed if isinstance(each, words.Arg) for name, _ in each.pairs}
    known |= {*more, *_PREDEFINED, "SOURCE_DATE_EPOCH"}
    return sorted(
        name
        for name in options.build_args
        if name not in known
        and name.lower() not in _PROXIES
        and not name.startswith(("BUILDKIT_", "SKERRY_"))
    )


@lru_cache(32)
def _parsed(data: bytes) -> Dockerfile:
    return parser.parse(data)


def triggers(onbuild: Iterable[str]) -> list[Instruction]:
    """What an image's ONBUILD adds to the stage. DockerfileFault."""
    return [each for text in onbuild for each in parser.parse_trigger(text)]


def excluder(patterns: Iterable[str]) -> Excluded:
    """`--exclude`, by the rules of .dockerignore."""
    return compile_rules(patterns).excluded


class Scope:
    """Evaluates the instructions of one stage, in order."""

    def __init__(self, plan: Plan) -> None:
        self._lexer = Lexer(plan.dockerfile.escape)
        self._contents = Lexer("\\", plain_quotes=True)
        self._escape = plan.dockerfile.escape
        self._arguments = Arguments(plan.globals, self._lexer)
        self._lines = plan.dockerfile.lines
        self._own_command = False

    def evaluate(self, instruction: Instruction, config: dict[str, Any]) -> Operation:
        """What the instruction does on top of a configuration. DockerfileFault with its place."""
        try:
            return self._evaluate(instruction, config)
        except DockerfileFault as fault:
            span = fault.span or instruction.source.span
            raise DockerfileFault(fault.reason, span, hint=fault.hint).within(self._lines) from None

    def _evaluate(self, instruction: Instruction, config: dict[str, Any]) -> Operation:
        environment = variables(config)
        known = self._arguments.variables(environment)

        def expand(text: str) -> str:
            return self._lexer.word(text, known)

        match instruction:
            case words.Arg():
                return self._arg(instruction, config, environment)
            case words.Run():
                return self._run(instruction, config, environment, expand)
            case words.Copy():
                return self._copy(instruction, config, known, expand)
            case words.Workdir():
                path = expand(instruction.path)
                if not path:
                    raise DockerfileFault("WORKDIR requires a path")
                path = posixpath.normpath(posixpath.join(_directory(config), path))
                return Workdir(f"WORKDIR {path}", "/" + path.lstrip("/"))
            case words.Cmd() | words.Entrypoint():
                return self._command(instruction, config)
            case _:
                return configure(instruction, config, expand)

    def _arg(
        self, instruction: words.Arg, config: dict[str, Any], environment: Mapping[str, str]
    ) -> Configure:
        shown = []
        for name, default in instruction.pairs:
            value = self._arguments.declare(name, default, environment)
            shown.append(name if value is None else f"{name}={value}")
        return Configure(f"ARG {' '.join(shown)}", config)

    def _run(
        self,
        instruction: words.Run,
        config: dict[str, Any],
        environment: Mapping[str, str],
        expand: Any,
    ) -> Run:
        args = list(instruction.command.args)
        files: tuple[tuple[str, bytes], ...] = ()
        shell = instruction.command.shell
        if instruction.documents and shell:
            args, files, shell = self._script(args[0], instruction.documents)
        if shell:
            args = [*(config.get("Shell") or DEFAULT_SHELL), *args]
        seen = self._arguments.run_arguments(environment)
        seen = {name: value for name, value in seen.items() if name not in _PREDEFINED}
        shown = f"|{len(seen)} {' '.join(f'{k}={v}' for k, v in seen.items())} " if seen else ""
        passed = self._arguments.run_arguments(environment)
        return Run(
            f"RUN {shown}{' '.join(args)} # buildkit",
            tuple(args),
            tuple(f"{name}={value}" for name, value in passed.items()),
            tuple(f"{name}={value}" for name, value in self._arguments.hidden().items()),
            tuple(
                mount_flags.parse(each, _directory(config), expand) for each in instruction.mounts
            ),
            instruction.network or "default",
            instruction.security == "insecure",
            files,
        )

    def _script(
        self, command: str, documents: tuple[words.HereDocument, ...]
    ) -> tuple[list[str], tuple[tuple[str, bytes], ...], bool]:
        """Here-documents of a RUN: the whole script, or handed on to the shell."""
        only = documents[0]
        if len(documents) == 1 and lines.here_document(command.strip(), self._escape) is not None:
            if only.content.startswith("#!"):
                path = f"{DOCUMENTS}/{only.name}"
                data = only.content.encode("utf-8", "surrogateescape")
                return [path], ((path, data),), False
            return [only.content], (), True
        whole = [command, *(f"{each.content}{each.name}" for each in documents)]
        return ["\n".join(whole)], (), True

    def _copy(
        self,
        instruction: words.Copy,
        config: dict[str, Any],
        known: Mapping[str, str],
        expand: Any,
    ) -> Copy:
        if "$" in instruction.from_:
            raise DockerfileFault(
                "variable expansion is not supported for --from",
                hint="define a stage with FROM ${VARIABLE} AS name and copy from that",
            )
        sources = tuple(map(expand, instruction.sources))
        files = tuple(
            (
                each.name,
                (self._contents.word(each.content, known) if each.expand else each.content).encode(
                    "utf-8", "surrogateescape"
                ),
            )
            for each in instruction.documents
        )
        given = expand(instruction.target)
        target = posixpath.join(_directory(config), given)
        if given in ("", ".") or given.endswith("/."):
            target = target.rstrip(".").rstrip("/") + "/"
        chown, chmod = expand(instruction.chown), expand(instruction.chmod)
        shown = [
            "ADD" if instruction.add else "COPY",
            *(["--parents"] if instruction.parents else []),
            *([f"--chown={chown}"] if chown else []),
            *([f"--chmod={chmod}"] if chmod else []),
            *sources,
            *(f"<<{name}" for name, _ in files),
            given,
            "# buildkit",
        ]
        if len(sources) + len(files) > 1 and not target.endswith("/"):
            raise DockerfileFault(
                f"When using {shown[0]} with more than one source file, the destination must be "
                "a directory and end with a /"
            )
        checksum = expand(instruction.checksum)
        if checksum and len(sources) + len(files) > 1:
            raise DockerfileFault("checksum can't be specified for multiple sources")
        if checksum and not all(map(is_remote, sources)):
            raise DockerfileFault("checksum requires HTTP(S) or Git sources")
        return Copy(
            " ".join(shown),
            sources,
            target,
            instruction.from_,
            chown,
            chmod,
            instruction.link,
            instruction.parents,
            tuple(map(expand, instruction.exclude)),
            checksum,
            files,
            instruction.add,
            instruction.unpack,
            instruction.keep_git_dir,
        )

    def _command(
        self, instruction: words.Cmd | words.Entrypoint, config: dict[str, Any]
    ) -> Configure:
        args = list(instruction.command.args)
        if instruction.command.shell and args:
            args = [*(config.get("Shell") or DEFAULT_SHELL), *args]
        if isinstance(instruction, words.Cmd):
            self._own_command = True
            return Configure(f"CMD {go_list(args)}", {**config, "Cmd": args})
        changed = {**config, "Entrypoint": args}
        if not self._own_command:
            # A base image's command is meant for its own entry point.
            changed["Cmd"] = None
        return Configure(f"ENTRYPOINT {go_list(args)}", changed)


_PREDEFINED = frozenset(platform_arguments("", ""))
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


def _directory(config: Mapping[str, Any]) -> str:
    return str(config.get("WorkingDir") or "/")


def go_list(args: Iterable[str]) -> str:
    """A list as Go's %q prints it."""
    quoted = (each.replace("\\", "\\\\").replace('"', '\\"') for each in args)
    return "[" + " ".join(f'"{each}"' for each in quoted) + "]"


def configure(instruction: Instruction, config: dict[str, Any], expand: Any) -> Configure:
    """The instructions that only concern the configuration."""
    match instruction:
        case words.Env():
            pairs = {name: expand(value) for name, value in instruction.pairs}
            shown = " ".join(f"{name}={value}" for name, value in pairs.items())
            return Configure(f"ENV {shown}", with_variables(config, pairs))
        case words.Label():
            pairs = {expand(name): expand(value) for name, value in instruction.pairs}
            shown = " ".join(f"{name}={value}" for name, value in pairs.items())
            labels = {**(config.get("Labels") or {}), **pairs}
            return Configure(f"LABEL {shown}", {**config, "Labels": labels})
        case words.Expose():
            ports = [each for text in instruction.ports for each in parse_ports(expand(text))]
            exposed = {**(config.get("ExposedPorts") or {}), **{port: {} for port in ports}}
            shown = " ".join(f"{port}:{{}}" for port in ports)
            return Configure(f"EXPOSE map[{shown}]", {**config, "ExposedPorts": exposed})
        case words.Volume():
            paths = list(map(expand, instruction.paths))
            volumes = {**(config.get("Volumes") or {}), **{path: {} for path in paths}}
            return Configure(f"VOLUME [{' '.join(paths)}]", {**config, "Volumes": volumes})
        case words.User():
            user = expand(instruction.user)
            return Configure(f"USER {user}", {**config, "User": user})
        case words.StopSignal():
            return _stop_signal(expand(instruction.signal), config)
        case words.Shell():
            args = list(instruction.args)
            return Configure(f"SHELL [{' '.join(args)}]", {**config, "Shell": args})
        case words.HealthCheck():
            return _health(instruction, config)
        case words.OnBuild():
            kept = [*(config.get("OnBuild") or []), instruction.trigger]
            return Configure(f"ONBUILD {instruction.trigger}", {**config, "OnBuild": kept})
        case words.Maintainer():
            return Configure(f"MAINTAINER {instruction.name}", config)
    raise DockerfileFault(f"unknown instruction: {instruction.source.keyword}")


def _stop_signal(text: str, config: dict[str, Any]) -> Configure:
    try:
        parse_signal(text)
    except InvalidInput as error:
        raise DockerfileFault(error.message) from None
    return Configure(f"STOPSIGNAL {text}", {**config, "StopSignal": text})


def _health(instruction: words.HealthCheck, config: dict[str, Any]) -> Configure:
    if instruction.command is None:
        test = ["NONE"]
        health: dict[str, Any] = {"Test": test}
    else:
        kind = "CMD-SHELL" if instruction.command.shell else "CMD"
        test = [kind, *instruction.command.args]
        times = {
            "Interval": instruction.interval,
            "Timeout": instruction.timeout,
            "StartPeriod": instruction.start_period,
            "StartInterval": instruction.start_interval,
            "Retries": instruction.retries,
        }
        health = {"Test": test, **{key: value for key, value in times.items() if value}}
    return Configure(f"HEALTHCHECK &{{{go_list(test)}}}", {**config, "Healthcheck": health})
