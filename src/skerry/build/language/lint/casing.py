"""Rules about how words are written: upper and lower case, old forms, names of stages."""

import json
import re
from typing import Final

from skerry.build.language.instructions import (
    Arg,
    Cmd,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    HealthCheck,
    Instruction,
    Label,
    Maintainer,
    Shell,
    Source,
    Stage,
)
from skerry.build.language.lint.findings import Finding, Findings, Surroundings

_RESERVED: Final = ("context", "scratch")
_MAPPING = re.compile(r"\[?[0-9a-fA-F.:]*\]?:[\d-]*(/\w+)?")


def names(file: Dockerfile, around: Surroundings) -> Findings:
    """Stage names and the words of FROM."""
    seen: set[str] = set()
    for stage in file.stages:
        source = stage.base.source
        words = source.text.split()
        if not stage.base.name or len(words) < 4:
            continue
        name, keyword = words[-1], words[-2]
        if name != name.lower():
            yield Finding(
                "StageNameCasing", f"Stage name '{name}' should be lowercase", source.span
            )
        if keyword.isupper() != source.keyword.isupper():
            text = f"'{keyword}' and '{source.keyword}' keywords' casing do not match"
            yield Finding("FromAsCasing", text, source.span)
        if stage.base.name in _RESERVED:
            text = "Stage name should not use the same name as reserved stage "
            yield Finding("ReservedStageName", text + json.dumps(stage.base.name), source.span)
        if stage.base.name in seen:
            quoted = json.dumps(stage.base.name)
            text = f"Duplicate stage name {quoted}, stage names should be unique"
            yield Finding("DuplicateStageName", text, source.span)
        seen.add(stage.base.name)


def keywords(file: Dockerfile, around: Surroundings) -> Findings:
    """One casing of instructions in the whole file: what most have, upper case in doubt."""
    sources = [*(each.source for each in file.arguments)]
    for stage in file.stages:
        sources += [stage.base.source, *(each.source for each in stage.instructions)]
    lower = sum(each.keyword.islower() for each in sources)
    upper = sum(each.keyword.isupper() for each in sources)
    majority = "lowercase" if lower > upper else "uppercase"
    for each in sources:
        fits = each.keyword.islower() if lower > upper else each.keyword.isupper()
        if not fits:
            text = f"Command '{each.keyword}' should match the case of the command majority "
            yield Finding("ConsistentInstructionCasing", f"{text}({majority})", each.span)


def descriptions(file: Dockerfile, around: Surroundings) -> Findings:
    """Comments right above FROM and ARG begin with the name they describe."""
    for stage in file.stages:
        if stage.base.name:
            yield from _described(stage.base.source, "FROM", stage.base.name)
        for each in stage.instructions:
            if isinstance(each, Arg):
                yield from _described(each.source, "ARG", each.pairs[0][0])
    for argument in file.arguments:
        yield from _described(argument.source, "ARG", argument.pairs[0][0])


def _described(source: Source, keyword: str, name: str) -> Findings:
    comment = source.comments[-1] if source.comments else ""
    if comment and comment.split(None, 1)[0].lower() != name.lower():
        text = f"Comment for {keyword} should follow the format: `# {name} <description>`"
        yield Finding("InvalidDefinitionDescription", text, source.span)


def forms(file: Dockerfile, around: Surroundings) -> Findings:
    """Old or doubtful forms of instructions, and those without effect."""
    shells: set[int] = set()
    by_name: dict[str, int] = {}
    for stage in file.stages:
        # What a stage's base stage has set holds on.
        if by_name.get(stage.base.base.lower()) in shells:
            shells.add(stage.number)
        if stage.base.name:
            by_name[stage.base.name] = stage.number
        yield from _repeated(stage)
        for each in stage.instructions:
            if isinstance(each, Shell):
                shells.add(stage.number)
            yield from _form(each, own_shell=stage.number in shells)


def _repeated(stage: Stage) -> Findings:
    for kind, word in ((Cmd, "CMD"), (Entrypoint, "ENTRYPOINT"), (HealthCheck, "HEALTHCHECK")):
        found = [each for each in stage.instructions if isinstance(each, kind)]
        for each in found[:-1]:
            text = (
                f"Multiple {word} instructions should not be used in the same stage because only "
                "the last one will be used"
            )
            yield Finding("MultipleInstructionsDisallowed", text, each.source.span)


def _form(each: Instruction, *, own_shell: bool) -> Findings:
    span = each.source.span
    if isinstance(each, Cmd | Entrypoint):
        if each.command.shell and each.command.args and not own_shell:
            word = "CMD" if isinstance(each, Cmd) else "ENTRYPOINT"
            text = f"JSON arguments recommended for {word} to prevent unintended behavior related"
            yield Finding("JSONArgsRecommended", f"{text} to OS signals", span)
    elif isinstance(each, Maintainer):
        text = "Maintainer instruction is deprecated in favor of using label"
        yield Finding("MaintainerDeprecated", text, span)
    elif isinstance(each, Env | Label):
        if each.legacy:
            word = "ENV" if isinstance(each, Env) else "LABEL"
            text = f'"{word} key=value" should be used instead of legacy "{word} key value" format'
            yield Finding("LegacyKeyValueFormat", text, span)
    elif isinstance(each, Expose):
        for port in each.ports:
            protocol = port.rpartition("/")[2] if "/" in port else ""
            if protocol != protocol.lower() and "$" not in protocol:
                text = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                yield Finding("ExposeProtoCasing", text, span)
            if "$" not in port and ":" in port and _MAPPING.search(port):
                text = "EXPOSE instruction should not define an IP address or host-port mapping, "
                yield Finding("ExposeInvalidFormat", f"{text}found '{port}'", span)
