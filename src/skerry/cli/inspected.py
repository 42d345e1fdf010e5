"""Containers and images as templates of `inspect` see them: with the nils of Docker's types.

`{{if .State.Health}}` has to be false where there is no health check, and an error nowhere.
"""

from __future__ import annotations

from skerry.cli.template import Nil, Typed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAPS = frozenset(
    "Annotations ExposedPorts Labels PortBindings StorageOpt Sysctls Tmpfs Volumes".split()
)
_POINTERS = frozenset(
    "Health Healthcheck Init MemorySwappiness OomKillDisable PidsLimit SizeRootFs SizeRw".split()
)
_OPTIONAL = {"": ("SizeRw", "SizeRootFs"), "State": ("Health",), "Config": ("Healthcheck",)}
"""Fields that JSON leaves out, by the object that has them."""


def typed(found: dict[str, Any]) -> dict[str, Any]:
    """What the engine said, with typed nils for nulls and for what is left out."""
    shown = _typed(found, "")
    shown.more["ID"] = found.get("Id", "")
    for name in ("State", "Config", "HostConfig"):
        if isinstance(found.get(name), dict):
            shown[name] = _typed(found[name], name)
    return shown


def _typed(value: dict[str, Any], where: str) -> Typed:
    return Typed(
        {key: _nil(key) if each is None else each for key, each in value.items()},
        {key: _nil(key) for key in _OPTIONAL.get(where, ())},
    )


def _nil(key: str) -> Nil:
    return Nil("map[]" if key in _MAPS else "<nil>" if key in _POINTERS else "[]")
