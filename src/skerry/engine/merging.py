"""An image's configuration under a container's: who wins, as Docker decides it. Pure."""

from collections.abc import Mapping
from typing import Any

from skerry.base.errors import InvalidInput

_WORDS = ("User", "WorkingDir", "StopSignal")
_LISTS = ("Env", "Cmd", "Entrypoint", "Shell")
_SETS = ("ExposedPorts", "Volumes", "Labels")
_PLAIN = (*_WORDS, "Shell")


def merge(config: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the image's values where it says nothing; empty values are left out.

    Raises InvalidInput when the two together name no command, and when the image's configuration,
    which anybody may have written, has another shape than the OCI image specification's.
    """
    _check_shape(image)
    result = dict(config)
    for key in _PLAIN:
        if not result.get(key) and image.get(key):
            result[key] = image[key]
    for key in _SETS:
        joined = {**(image.get(key) or {}), **(result.get(key) or {})}
        if joined:
            result[key] = dict(sorted(joined.items()))
    _merge_env(result, image)
    _merge_command(result, image)
    _merge_health(result, image)
    if not result.get("Entrypoint") and not result.get("Cmd"):
        raise InvalidInput("no command specified")
    return {key: value for key, value in result.items() if value not in (None, "", [], {})}


def _check_shape(image: Mapping[str, Any]) -> None:
    """Of what is read here; a store may hold images whose configuration nobody has looked into."""
    for keys, kind, shape in (
        (_WORDS, str, "text"),
        (_LISTS, list, "a list of texts"),
        (_SETS, dict, "an object"),
    ):
        for key in keys:
            value = image.get(key)
            if value is None:
                continue
            if not isinstance(value, kind) or not all(isinstance(each, str) for each in value):
                raise InvalidInput(f"the image's configuration is damaged: {key} is not {shape}")
    health = image.get("Healthcheck")
    if health is not None and not isinstance(health, dict):
        raise InvalidInput("the image's configuration is damaged: Healthcheck is not an object")


def _merge_env(result: dict[str, Any], image: Mapping[str, Any]) -> None:
    own = list(result.get("Env") or ())
    names = {entry.partition("=")[0] for entry in own}
    inherited = [e for e in image.get("Env") or () if e.partition("=")[0] not in names]
    if own or inherited:
        result["Env"] = own + inherited


def _merge_command(result: dict[str, Any], image: Mapping[str, Any]) -> None:
    """An entry point of one's own drops the image's command; `[""]` is none at all."""
    entrypoint = result.get("Entrypoint")
    if not entrypoint:
        if not result.get("Cmd"):
            result["Cmd"] = list(image.get("Cmd") or ())
        if entrypoint is None:
            result["Entrypoint"] = list(image.get("Entrypoint") or ())
    elif entrypoint == [""]:
        result["Entrypoint"] = []


def _merge_health(result: dict[str, Any], image: Mapping[str, Any]) -> None:
    inherited = image.get("Healthcheck") or {}
    if inherited:
        own = result.get("Healthcheck") or {}
        result["Healthcheck"] = {**inherited, **own}
