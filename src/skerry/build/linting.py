"""The lint over one build's Dockerfile, with what this build and this store know."""

import contextlib
from collections.abc import Collection

from skerry.base import ignore
from skerry.base.architectures import architecture
from skerry.base.errors import SkerryError
from skerry.build.bases import local_name
from skerry.build.language.lint import Surroundings, Warned, lint
from skerry.build.reading import Plan
from skerry.build.request import Options
from skerry.build.state import variables
from skerry.build.tree import Tree, resolve
from skerry.engine.engine import Engine


def warned(
    engine: Engine, plan: Plan, options: Options, main: Tree | None, contexts: Collection[str]
) -> list[Warned]:
    """The warnings."""
    matcher = _ignored(main, options.dockerfile) if main is not None else None
    bases = {stage.base: _names(engine, stage.base) for stage in plan.stages.values()}
    around = Surroundings(
        {name: value for name, value in options.build_args.items() if value is not None},
        [name for name in contexts if name],
        {base: names for base, names in bases.items() if names},
        matcher.excluded if matcher else None,
        {} if options.platform else _foreign(engine, plan, contexts),
    )
    return lint(plan.dockerfile, around, options.dockerfile)


def _foreign(engine: Engine, plan: Plan, contexts: Collection[str]) -> dict[str, tuple[str, str]]:
    """Bases that are here for another platform, where none was asked for."""
    here = f"linux/{architecture()}"
    found = {}
    for stage in plan.stages.values():
        if stage.base_stage >= 0 or stage.platform or stage.base in contexts:
            continue
        with contextlib.suppress(SkerryError):
            image = engine.images.get(local_name(stage.base))
            platform = f"{image.os}/{image.architecture}"
            if platform != here:
                found[stage.base] = (platform, here)
    return found


def _names(engine: Engine, base: str) -> list[str]:
    """The variables of a base that is here already; nothing is pulled for a warning."""
    try:
        config = engine.store.images.config(engine.images.get(local_name(base))).config
    except SkerryError:
        return []
    return [*variables(dict(config or {})), "PATH"]


def _ignored(tree: Tree, dockerfile: str) -> ignore.Matcher | None:
    for path in (f"{dockerfile}.dockerignore", ".dockerignore"):
        node = resolve(tree, path)
        if node is not None and node.kind == "f" and node.size <= ignore.MAX_BYTES:
            return ignore.compile_rules(ignore.read(b"".join(map(bytes, tree.data(node)))))
    return None
