"""An image's configuration under a container's: who wins, as Docker decides it. Pure."""

from collections.abc import Mapping
from typing import Any

from skerry.base.errors import InvalidInput

_PLAIN = ("User", "WorkingDir", "StopSignal", "Shell")
_SETS = ("ExposedPorts", "Volumes", "Labels")


def merge(config: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the image's values where it says nothing; empty values are left out.

    Raises InvalidInput when the two together name no command.
    """
    result = dict(config)
    for key in _PLAIN:
        if not result.get(key) and image.get(key):
            result[key] = image[key]
    for key in _SETS:
        joined = {**(image.get(key) or {}), **(result.get(key) or {})}
        if joined:
            result[key] = joined
    _merge_env(result, image)
    _merge_command(result, image)
    _merge_health(result, image)
    if not result.get("Entrypoint") and not result.get("Cmd"):
        raise InvalidInput("no command specified")
    return {key: value for key, value in result.items() if value not in (None, "", [], {})}


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
