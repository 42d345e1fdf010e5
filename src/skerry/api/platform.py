"""The `platform` that a request for an image may ask for: JSON of an OCI platform."""

import json

from skerry.api import versions
from skerry.api.call import Call
from skerry.base.errors import InvalidInput
from skerry.base.oci_image import Platform

_LIMIT = 4096


def wanted(call: Call, verb: str) -> Platform | None:
    """What `platform` (of a removal `platforms`) says, to versions that know it for this verb.
    InvalidInput in Docker's words."""
    if not versions.takes_platform(call.version, verb):
        return None
    given = call.query.getall("platforms" if verb == "remove" else "platform", [])
    if len(given) > 1:
        raise InvalidInput("multiple platform parameters not supported")
    return parse(given[0]) if given and given[0] else None


def check(call: Call, verb: str, *names: str) -> None:
    """NotFound unless each of these images is for the platform, if the request asks for one."""
    platform = wanted(call, verb)
    for name in names if platform else ():
        call.engine.images.get(name, platform)


def parse(text: str) -> Platform:
    """One platform."""
    try:
        data = json.loads(text if len(text) <= _LIMIT else "")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"failed to parse platform: {error}") from None
    if not isinstance(data, dict):
        raise InvalidInput("failed to parse platform: it has to be a JSON object")
    words = [data.get(key) or "" for key in ("os", "architecture", "variant", "os.version")]
    if not all(isinstance(word, str) for word in words):
        raise InvalidInput("failed to parse platform: its fields have to be strings")
    os, architecture, variant, version = words
    if not (os and architecture):
        raise InvalidInput("both OS and Architecture must be provided")
    return Platform(architecture, os, version, variant)
