"""What the administrator has said about containers' machines: keys of `<root>/engine.json`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput
from skerry.engine import settings_file

_MOST_SPARES = 16


class MachineSettings(NamedTuple):
    """The part of the settings that is about machines."""

    spares: int = 2
    """`vm-spares`: how many machines at most stand ready, one for each kind that was asked for of
    late, and a second of kinds that come in bursts; 0 for none."""


def load(root: str) -> MachineSettings:
    """The settings of the engine with this root; InvalidInput names what is wrong."""
    path = settings_file.path_in(root)
    try:
        return parse(settings_file.read(path))
    except InvalidInput as error:
        raise InvalidInput(error.message if path in error.message else f"{path}: {error}") from None


def parse(data: Mapping[str, Any]) -> MachineSettings:
    """The settings in a decoded file; other rooms' keys are left alone."""
    spares = data.get("vm-spares", MachineSettings().spares)
    if type(spares) is not int or not 0 <= spares <= _MOST_SPARES:
        raise InvalidInput(f"vm-spares: {spares!r:.60} is no number from 0 to {_MOST_SPARES}")
    return MachineSettings(spares)
