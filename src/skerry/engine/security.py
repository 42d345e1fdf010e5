"""What a container's processes may do: capabilities and `--security-opt`, as Docker reads them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput, Unsupported
from skerry.kernel.capabilities import DOCKER_DEFAULT
from skerry.kernel.seccomp_profile import resolve_profile


class Security(NamedTuple):
    """`--security-opt` after reading."""

    seccomp: str | dict[str, Any] = "default"
    """`default`, `unconfined` or an OCI seccomp object."""
    no_new_privileges: bool = False
    system_paths: bool = True
    """Mask and protect paths below /proc and /sys."""
    apparmor: str = ""


def _name(text: str, known: Mapping[str, int], where: str) -> str:
    name = text.upper()
    if name == "ALL":
        return name
    if not name.startswith("CAP_"):
        name = f"CAP_{name}"
    if name not in known:
        raise InvalidInput(f'invalid {where}: unknown capability: "{name}"')
    return name


def capabilities(
    add: Iterable[str], drop: Iterable[str], known: Mapping[str, int], *, privileged: bool = False
) -> tuple[str, ...]:
    """The set that Docker's `--cap-add` and `--cap-drop` leave of the default one.

    `known` holds what this kernel knows. ALL in `add` starts from everything, ALL in `drop` from
    nothing. InvalidInput for an unknown name.
    """
    adds = [_name(each, known, "CapAdd") for each in add]
    drops = {_name(each, known, "CapDrop") for each in drop}
    if privileged:
        return tuple(known)
    if "ALL" in adds:
        base: Sequence[str] = list(known)
    elif "ALL" in drops:
        base = []
    else:
        base = [each for each in DOCKER_DEFAULT if each in known]
    kept = [each for each in base if each not in drops]
    kept += [each for each in adds if each != "ALL" and each not in kept]
    return tuple(kept)


def parse_options(options: Iterable[str], *, privileged: bool = False) -> Security:
    """Docker's `SecurityOpt` strings; InvalidInput with Docker's words."""
    result = Security()
    if privileged:
        result = Security(seccomp="unconfined", system_paths=False)
    for option in options:
        if option in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"):
            result = result._replace(no_new_privileges=True)
            continue
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        if not separator:
            raise InvalidInput(f"invalid --security-opt 1: {option!r:.80}")
        result = _apply(result, key, value, option)
    return result


def _apply(so_far: Security, key: str, value: str, option: str) -> Security:
    match key:
        case "no-new-privileges" if value in ("true", "false"):
            return so_far._replace(no_new_privileges=value == "true")
        case "seccomp":
            return so_far._replace(seccomp=_seccomp(value))
        case "systempaths" if value == "unconfined":
            return so_far._replace(system_paths=False)
        case "apparmor":
            return so_far._replace(apparmor="" if value == "unconfined" else value)
        case "label":
            # Without SELinux on the host a label has nothing to act upon, as with Docker.
            return so_far
        case _:
            raise InvalidInput(f"invalid --security-opt 2: {option!r:.80}")


def _seccomp(value: str) -> str | dict[str, Any]:
    if value in ("unconfined", "builtin", "default"):
        return "unconfined" if value == "unconfined" else "default"
    try:
        profile = json.loads(value)
    except (ValueError, RecursionError):
        profile = None
    if not isinstance(profile, dict):
        raise InvalidInput("Decoding seccomp profile failed: not a JSON object")
    return profile


def seccomp_profile(
    profile: Mapping[str, Any], held: Iterable[str], machine: str
) -> dict[str, Any] | None:
    """An OCI seccomp object out of Docker's profile form, which adds conditions to the rules.

    None when the profile is empty, which to Docker means unconfined.
    """
    return resolve_profile(profile, held, arch=machine)


def check_devices(requests: Iterable[Mapping[str, Any]]) -> None:
    """GPUs and other device requests need a driver that skerry does not have."""
    for request in requests:
        kinds = [f"[{' '.join(group)}]" for group in request.get("Capabilities") or []]
        raise Unsupported(
            f'could not select device driver "{request.get("Driver", "")}" with capabilities: '
            f"[{' '.join(kinds)}]",
            hint="give the device nodes with --device",
        )
