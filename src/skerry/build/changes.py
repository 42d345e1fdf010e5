"""`--change` of commit and import: instructions of a Dockerfile that only touch a configuration."""

from collections.abc import Iterable
from typing import Any, Final

from skerry.base.errors import InvalidInput
from skerry.build.language.faults import DockerfileFault
from skerry.build.operations import Configure, Workdir
from skerry.build.reading import Scope, read
from skerry.build.request import Options

_ALLOWED: Final = frozenset(
    "CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR".split()
)


def applied(config: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """A Config object of the image specification after the changes, in their order.

    InvalidInput, in Docker's words, for what is no such instruction.
    """
    texts = list(changes)
    if not texts:
        return config
    for text in texts:
        _check(next(iter(text.split(None, 1)), ""))
    try:
        plan = read("\n".join(["FROM scratch", *texts]).encode(), Options(), ())
        if len(plan.dockerfile.stages) > 1:
            _check("FROM")
        scope = Scope(plan)
        for instruction in plan.stages[plan.target].instructions:
            # A change may hold several lines.
            _check(instruction.source.keyword)
            done = scope.evaluate(instruction, config)
            if isinstance(done, Configure):
                config = done.config
            elif isinstance(done, Workdir):
                config = {**config, "WorkingDir": done.path}
    except DockerfileFault as fault:
        raise InvalidInput(fault.reason) from None
    return config


def _check(word: str) -> None:
    if not word:
        raise InvalidInput("file with no instructions")
    if word.upper() not in _ALLOWED:
        raise InvalidInput(f"{word:.40} is not a valid change command")
