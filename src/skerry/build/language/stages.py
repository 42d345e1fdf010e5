"""Which stages there are, what each is made from, and which of them a target needs. Pure."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from skerry.build.language.faults import DockerfileFault
from skerry.build.language.instructions import Copy, Dockerfile, Run, Stage
from skerry.build.language.lexer import Lexer
from skerry.build.language.position import Span
from skerry.build.language.scope import Globals


class Node(NamedTuple):
    """One stage of the graph. `base` and `platform` are expanded."""

    stage: Stage
    base: str
    platform: str
    base_stage: int | None
    """The stage that it goes on from; None for an image, a named context or scratch."""
    needs: tuple[int, ...]
    """Stages that must be there first: the base, and those that COPY and RUN --mount take from."""
    unset: frozenset[str] = frozenset()
    """Variables of the FROM line that have no value."""


class StageGraph(NamedTuple):
    """All stages; `order` has those that the target needs, dependencies first."""

    nodes: tuple[Node, ...]
    target: int
    order: tuple[int, ...]
    names: Mapping[str, int]
    """Lower-case name, further name or number to stage; of equal names the last."""


def plan(
    dockerfile: Dockerfile,
    target: str,
    outer: Globals,
    contexts: Collection[str] = (),
    aliases: Mapping[str, str] = {},
) -> StageGraph:
    """The graph for a target stage (its name or number; empty is the last).

    `contexts` are the names that --build-context replaces, `aliases` those that it makes further
    names of stages. DockerfileFault for a missing stage or
    a circle.
    """
    try:
        return _plan(dockerfile, target, outer, contexts, aliases)
    except DockerfileFault as fault:
        raise fault.within(dockerfile.lines) from None


def _plan(
    dockerfile: Dockerfile,
    target: str,
    outer: Globals,
    contexts: Collection[str],
    aliases: Mapping[str, str],
) -> StageGraph:
    named = {stage.base.name: stage.number for stage in dockerfile.stages if stage.base.name}
    also = {name.lower(): _target(dockerfile, each, named) for name, each in aliases.items()}
    replaced = {name.lower() for name in contexts} - set(also)
    names = {**named, **also}
    lexer = Lexer(dockerfile.escape)
    nodes = []
    known = dict(also)
    for stage in dockerfile.stages:
        nodes.append(_node(stage, lexer, outer, known, names, replaced, dockerfile))
        if stage.base.name:
            known[stage.base.name] = also.get(stage.base.name, stage.number)
    chosen = _target(dockerfile, target, names)
    order = tuple(_order(nodes, chosen))
    numbers = {str(stage.number): stage.number for stage in dockerfile.stages}
    return StageGraph(tuple(nodes), chosen, order, {**numbers, **names})


def _node(
    stage: Stage,
    lexer: Lexer,
    outer: Globals,
    known: Mapping[str, int],
    names: Mapping[str, int],
    replaced: Collection[str],
    dockerfile: Dockerfile,
) -> Node:
    where = stage.base.source.span
    try:
        base = lexer.expand(stage.base.base, outer.variables())
        platform = lexer.expand(stage.base.platform, outer.variables())
    except DockerfileFault as fault:
        raise DockerfileFault(fault.reason, where) from None
    if not base.word:
        unset = ", ".join(sorted(base.unset))
        raise DockerfileFault(
            f"base name ({stage.base.base}) should not be blank",
            where,
            hint=f"no ARG before the first FROM gives a value to {unset}" if unset else "",
        )
    lower = base.word.lower()
    base_stage = None if lower in replaced else known.get(lower)
    needs = [] if base_stage is None else [base_stage]
    for name, span in _sources(stage):
        found = _stage_of(name, names, replaced, len(dockerfile.stages), span)
        if found is not None and found not in needs:
            needs.append(found)
    missing = base.unset | platform.unset
    return Node(stage, base.word, platform.word, base_stage, tuple(needs), missing)


def _sources(stage: Stage) -> Iterator[tuple[str, Span]]:
    """What COPY --from and RUN --mount=from= of a stage name, with the place."""
    for each in stage.instructions:
        if isinstance(each, Copy) and each.from_:
            yield each.from_, each.source.span
        elif isinstance(each, Run):
            for mount in each.mounts:
                for part in mount.split(","):
                    key, _, value = part.strip().partition("=")
                    if key.strip().lower() == "from" and value:
                        yield value.strip(), each.source.span


def _stage_of(
    name: str, names: Mapping[str, int], replaced: Collection[str], count: int, span: Span
) -> int | None:
    """The stage that a `from` means; None for an image or a named context."""
    lower = name.lower()
    if lower in replaced or "$" in name:
        return None
    if lower in names:
        return names[lower]
    if lower.isascii() and lower.isdigit():
        number = int(lower[:9])
        if number >= count:
            raise DockerfileFault(
                f"invalid stage index {lower[:9]}",
                span,
                hint=f"the stages are 0 to {count - 1}",
            )
        return number
    return None


def _target(dockerfile: Dockerfile, target: str, names: Mapping[str, int]) -> int:
    if not target:
        return len(dockerfile.stages) - 1
    lower = target.lower()
    if lower in names:
        return names[lower]
    if lower.isascii() and lower.isdigit() and int(lower[:9]) < len(dockerfile.stages):
        return int(lower[:9])
    near = difflib.get_close_matches(lower[:64], list(names), 1)
    hint = f"did you mean {near[0]}?" if near else ""
    if not near and names:
        hint = "the stages are " + ", ".join(list(names)[:20])
    raise DockerfileFault(f'target stage "{target[:64]}" could not be found', hint=hint)


def _order(nodes: list[Node], target: int) -> list[int]:
    """Dependencies first, without recursion. A circle is named in full."""
    done: list[int] = []
    finished: set[int] = set()
    path: list[int] = []
    stack: list[tuple[int, Iterator[int]]] = [(target, iter(nodes[target].needs))]
    path.append(target)
    while stack:
        number, left = stack[-1]
        following = next(left, None)
        if following is None:
            stack.pop()
            path.pop()
            finished.add(number)
            done.append(number)
        elif following in path:
            circle = [*path[path.index(following) :], following]
            named = " -> ".join(nodes[each].stage.label for each in circle)
            raise DockerfileFault(
                f"circular dependency detected on stage: {nodes[following].stage.label}",
                nodes[following].stage.base.source.span,
                hint=f"the circle is {named}",
            )
        elif following not in finished:
            path.append(following)
            stack.append((following, iter(nodes[following].needs)))
    return done
