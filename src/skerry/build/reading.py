"""INTERIM: replaced by the language's own parser as soon as it lands."""

import json
import posixpath
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput
from skerry.build.copying import Excluded
from skerry.build.operations import Configure, Copy, Operation, Run, Workdir
from skerry.build.request import Options
from skerry.build.state import State, variables, with_variables


class Instruction(NamedTuple):
    name: str
    rest: str
    text: str
    line: int


class Stage(NamedTuple):
    number: int
    name: str
    base: str
    base_stage: int
    platform: str
    instructions: tuple[Instruction, ...]


class Plan(NamedTuple):
    stages: Mapping[int, Stage]
    target: int
    names: Mapping[str, int]


def read(data: bytes, options: Options, contexts: Iterable[str]) -> Plan:
    text = data.decode("utf-8", "replace").replace("\\\n", "")
    stages: list[Stage] = []
    names: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word.upper() == "FROM":
            parts = rest.split()
            base = parts[0]
            name = parts[2] if len(parts) > 2 else ""
            stages.append(Stage(len(stages), name, base, names.get(base, -1), "", ()))
            if name:
                names[name] = stages[-1].number
            names[str(stages[-1].number)] = stages[-1].number
            continue
        if not stages:
            raise InvalidInput("no build stage in current context")
        made = Instruction(word.upper(), rest.strip(), line, number)
        stages[-1] = stages[-1]._replace(instructions=(*stages[-1].instructions, made))
    if not stages:
        raise InvalidInput("the Dockerfile is empty")
    target = names[options.target] if options.target else len(stages) - 1
    return Plan({each.number: each for each in stages}, target, names)


def triggers(onbuild: list[str]) -> list[Instruction]:
    return [Instruction(*each.split(" ", 1), each, 0) for each in onbuild]  # type: ignore


def excluder(patterns: Iterable[str]) -> Excluded:
    wanted = set(patterns)
    return lambda path, _is_dir: path in wanted


class Scope:
    def __init__(self, plan: Plan, stage: Stage, state: State, options: Options) -> None:
        self._options = options

    def evaluate(self, instruction: Instruction, config: dict[str, Any]) -> Operation | None:
        rest = instruction.rest
        directory = config.get("WorkingDir") or "/"
        match instruction.name:
            case "RUN":
                args = json.loads(rest) if rest.startswith("[") else ["/bin/sh", "-c", rest]
                return Run(f"RUN {' '.join(args)} # buildkit", tuple(args))
            case "COPY" | "ADD":
                words = shlex.split(rest)
                flags = dict(
                    word[2:].partition("=")[::2] for word in words if word.startswith("--")
                )
                words = [word for word in words if not word.startswith("--")]
                target = posixpath.join(directory, words[-1])
                return Copy(
                    f"{instruction.name} {rest} # buildkit",
                    tuple(words[:-1]),
                    target,
                    from_=flags.get("from", ""),
                    chown=flags.get("chown", ""),
                    add=instruction.name == "ADD",
                )
            case "WORKDIR":
                return Workdir(f"WORKDIR {rest}", posixpath.join(directory, rest))
            case "ENV":
                pairs = dict(word.partition("=")[::2] for word in shlex.split(rest))
                return Configure(f"ENV {rest}", with_variables(config, pairs))
            case "CMD":
                args = json.loads(rest) if rest.startswith("[") else ["/bin/sh", "-c", rest]
                return Configure(f"CMD {rest}", {**config, "Cmd": args})
        raise InvalidInput(f"unknown instruction: {instruction.name}")


_ = variables
