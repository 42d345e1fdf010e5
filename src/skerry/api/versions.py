"""Docker's API versions: which ones are spoken, and what differs between them.

Everything that depends on the version a client asked for is decided here. Facts from Docker's API
version history (https://docs.docker.com/reference/api/engine/version-history/).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput


class Version(NamedTuple):
    """An API version."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class TooOld(InvalidInput):
    """A version before the first one whose errors are JSON."""


OLDEST = Version(1, 24)
NEWEST = Version(1, 50)

_ASKED = re.compile(r"/v([0-9.]{1,8})/")

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


def split(path: str) -> tuple[Version, str]:
    """The version that a path asks for, and the path without it. InvalidInput in Docker's words."""
    asked = _ASKED.match(path)
    if asked is None:
        return NEWEST, path
    head, rest = asked[1], path[asked.end() :]
    # As in Docker what is no number counts as 0, and only the first two count.
    numbers = [int(each or 0) for each in head.split(".")]
    version = Version(numbers[0], numbers[1] if len(numbers) > 1 else 0)
    if version < OLDEST:
        raise TooOld(
            f"client version {head} is too old. Minimum supported API version is {OLDEST}, "
            "please upgrade your client to a newer version"
        )
    if version > NEWEST:
        raise InvalidInput(
            f"client version {head} is too new. Maximum supported API version is {NEWEST}"
        )
    return version, f"/{rest}"


def stream_type(version: Version, *, terminal: bool) -> str:
    """Content type of attached streams and logs: since 1.42 it tells whether frames are inside."""
    if version >= (1, 42) and not terminal:
        return MULTIPLEXED_STREAM
    return RAW_STREAM


def images_have_virtual_size(version: Version) -> bool:
    """Images' VirtualSize went in 1.44."""
    return version < (1, 44)


def images_have_empty_names(version: Version) -> bool:
    """Until 1.43 an image without names was listed with one of `<none>`."""
    return version < (1, 43)


def images_have_containers(version: Version) -> bool:
    """Images' Container and ContainerConfig went in 1.45."""
    return version < (1, 45)


def filters_images_by_name(version: Version) -> bool:
    """The list of images took a `filter` that is one name until 1.41."""
    return version < (1, 41)


def has_short_config(version: Version) -> bool:
    """Since 1.50 an image's configuration no longer holds fields that only containers have."""
    return version >= (1, 50)


def prunes_named_volumes(version: Version) -> bool:
    """Before 1.42 pruning volumes took named ones along, as `all` does since."""
    return version < (1, 42)


def wait_answers_at_once(version: Version) -> bool:
    """Since 1.30 `wait` sends its headers before the container ends."""
    return version >= (1, 30)


def sends_text_frames(version: Version) -> bool:
    """Until 1.28 the WebSocket of an attach sent text."""
    return version < (1, 28)


def websocket_takes_streams(version: Version) -> bool:
    """Since 1.42 the WebSocket of an attach takes stdin, stdout and stderr; before, it had all."""
    return version >= (1, 42)


def stop_takes_a_signal(version: Version) -> bool:
    """Since 1.42 `stop` and `restart` take a signal."""
    return version >= (1, 42)


def networks_list_containers(version: Version) -> bool:
    """Until 1.28 the list of networks told who was in them."""
    return version < (1, 28)


def aliases_have_the_id(version: Version) -> bool:
    """Until 1.45 an endpoint's aliases held the container's short id; DNSNames do since."""
    return version < (1, 45)


def knows_kernel_memory(version: Version) -> bool:
    """Limits of kernel memory went in 1.42, and with them where they were told."""
    return version < (1, 42)


def tells_builder_size(version: Version) -> bool:
    """BuilderSize, and the Parent of a BuildCache, went in 1.42."""
    return version < (1, 42)


_PLATFORM_SINCE = {"push": 46, "history": 48, "save": 48, "load": 48, "inspect": 49, "remove": 50}


def takes_platform(version: Version, verb: str) -> bool:
    """Whether a request for an image may say for which platform; older clients' is ignored."""
    return version >= (1, _PLATFORM_SINCE[verb])


def create_host(version: Version, host: Mapping[str, Any]) -> dict[str, Any]:
    """The HostConfig of a create, with what a client of that version means by leaving things out
    and without what it cannot know.
    """
    result = dict(host)
    if version < (1, 25):
        # Those clients remove the container themselves.
        result.pop("AutoRemove", None)
    if version < (1, 40) and not result.get("IpcMode"):
        result["IpcMode"] = "shareable"
    if version < (1, 42):
        result.pop("ConsoleSize", None)
    else:
        result.pop("KernelMemory", None)
    return result


def info(version: Version) -> dict[str, Any]:
    """What `GET /info` told until it went."""
    result: dict[str, Any] = {}
    if knows_kernel_memory(version):
        result["KernelMemory"] = False
    if version < (1, 50):
        result |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
    return result


def registry_info(version: Version) -> dict[str, Any]:
    """What the RegistryConfig of `GET /info` told until 1.49."""
    if version >= (1, 49):
        return {}
    return {
        "AllowNondistributableArtifactsCIDRs": None,
        "AllowNondistributableArtifactsHostnames": None,
    }


def commit(version: Version) -> dict[str, str]:
    """A component of `GET /info`: until 1.49 with the version that was expected of it."""
    return {"ID": "", "Expected": ""} if version < (1, 49) else {"ID": ""}
