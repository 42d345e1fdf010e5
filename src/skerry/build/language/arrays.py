"""The exec form: a JSON array of strings, or no JSON at all."""

import json

from skerry.build.language.faults import DockerfileFault


class NotStrings(DockerfileFault):
    """A JSON array that holds something else than strings."""


def json_list(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON array; None when the text is not one, as Docker falls back to a
    shell then. NotStrings when it is an array of something else."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    if not all(isinstance(each, str) for each in value):
        raise NotStrings("when using JSON array syntax, arrays must be comprised of strings only")
    return tuple(value)
