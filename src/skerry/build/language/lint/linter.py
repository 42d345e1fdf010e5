"""All rules over one file."""

from collections.abc import Iterator
from typing import NamedTuple

from skerry.build.language.faults import DockerfileFault, excerpt
from skerry.build.language.instructions import Check, Dockerfile
from skerry.build.language.lint import casing, contents, variables
from skerry.build.language.lint.findings import Finding, Part, Surroundings
from skerry.build.language.lint.rules import RULES
from skerry.build.language.position import Span

MAX_WARNINGS = 1000
_PARTS: tuple[Part, ...] = (
    casing.names,
    casing.keywords,
    casing.forms,
    casing.descriptions,
    variables.bases,
    variables.undefined,
    contents.secrets,
    contents.directories,
    contents.ignored,
    contents.latest,
    contents.leavings,
)
_REMARKS = {"NoEmptyContinuation": "Empty continuation line"}


class Warned(NamedTuple):
    """One warning. `excerpt` is the source around the place."""

    rule: str
    text: str
    span: Span
    excerpt: str


def lint(
    file: Dockerfile, around: Surroundings | None = None, name: str = "Dockerfile"
) -> list[Warned]:
    """The warnings, in the order of their lines; at most MAX_WARNINGS."""
    if file.check.skip_all:
        return []
    found = [each for each in _found(file, around or Surroundings()) if _wanted(each, file.check)]
    found.sort(key=lambda each: (each.span.line, each.rule))
    return [
        Warned(*each, excerpt(file.lines, each.span, name))
        for each in dict.fromkeys(found[:MAX_WARNINGS])
    ]


def _found(file: Dockerfile, around: Surroundings) -> Iterator[Finding]:
    for remark in file.remarks:
        yield Finding(remark.rule, _REMARKS.get(remark.rule, remark.detail), remark.span)
    for part in _PARTS:
        yield from part(file, around)


def _wanted(finding: Finding, check: Check) -> bool:
    name = finding.rule.lower()
    if name in check.skip:
        return False
    return not RULES[finding.rule].experimental or bool(check.experimental & {name, "all"})


def violation(file: Dockerfile, warnings: list[Warned]) -> DockerfileFault | None:
    """The error that `# check=error=true` makes of warnings by Docker's rules: what builds with
    Docker is not to fail here."""
    if not file.check.error:
        return None
    counted = [each for each in warnings if not RULES[each.rule].own]
    if not counted:
        return None
    rules = ", ".join(sorted({each.rule for each in counted}))
    fault = DockerfileFault(f"lint violation found for rules: {rules}", counted[0].span)
    return fault.within(file.lines)
