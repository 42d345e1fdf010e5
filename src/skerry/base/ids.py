"""Object ids and names: 64 hex digits, 12 when shown, and adjective_noun for who gives no name."""

import os
import re

from skerry.base.errors import InvalidInput

NAME_PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""Docker's rule for container and volume names."""

_ADJECTIVES = (
    "amber bold brisk calm clear coral crisp deep early eager fair fleet gentle golden keen kind "
    "light lively lone lucid mellow mild misty noble northern pale quick quiet rapid sandy sharp "
    "silver steady still stony swift tidal true vivid warm western white windy young"
).split()
_NOUNS = (
    "auk beacon bight brill cliff cod cormorant crab curlew dunlin eddy eider fulmar gannet gull "
    "heron holm inlet islet kelp kittiwake knot lagoon limpet loon merlin mussel otter petrel "
    "pipit plover puffin reef sandbar seal shag shoal skua sound spindrift spray tern tide"
).split()


def new_id() -> str:
    """A fresh random id: 64 lower-case hex digits."""
    return os.urandom(32).hex()


def short(full: str) -> str:
    """The 12 digits that tables show."""
    return full.removeprefix("sha256:")[:12]


def random_name() -> str:
    """An `adjective_noun`; the caller checks that it is free."""
    a, n = os.urandom(2)
    return f"{_ADJECTIVES[a % len(_ADJECTIVES)]}_{_NOUNS[n % len(_NOUNS)]}"


def check_name(name: str, kind: str = "container") -> str:
    """`name` when it follows Docker's rule, else InvalidInput."""
    if not NAME_PATTERN.fullmatch(name) or len(name) > 255:
        raise InvalidInput(
            f"Invalid {kind} name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            # Docker's clients are told Docker's words about containers.
            hint="at least two of them" if len(name) == 1 and kind != "container" else "",
        )
    return name


def check_volume_name(name: str) -> str:
    """The same for a volume, in the words that Docker has for those."""
    if len(name) == 1:
        raise InvalidInput(
            f"create {name}: volume name is too short, "
            "names should be at least two alphanumeric characters"
        )
    if not NAME_PATTERN.fullmatch(name) or len(name) > 255:
        raise InvalidInput(
            f'create {name}: "{name}" includes invalid characters for a local volume name, '
            'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host '
            "directory, use absolute path"
        )
    return name
