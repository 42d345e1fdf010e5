"""LXC and Incus unified tarballs: `metadata.yaml`, `rootfs/` and `templates/` in one archive.

Source: the Incus documentation, "Image format". YAML can say more than data: tags make objects and
aliases make bombs, so the document is read as events first, which are counted and have to be plain.
"""

import re
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from skerry.base.architectures import MACHINES
from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.oci_image import History, ImageConfig, RootFS
from skerry.store.commit import timestamp
from skerry.store.image import Image

NAME: Final = "metadata.yaml"
MAX_METADATA: Final = 256 << 10
MAX_EVENTS: Final = 20_000
MAX_NESTING: Final = 16
PROPERTY: Final = "image."
"""What a property's name becomes as a label; Incus itself names instances' copies so."""

_NAMES: Final = {
    ("amd64", ""): "x86_64",
    ("386", ""): "i686",
    ("arm64", ""): "aarch64",
    ("arm64", "v8"): "aarch64",
    ("arm", "v7"): "armv7l",
    ("arm", ""): "armv7l",
    ("arm", "v6"): "armv6l",
    ("loong64", ""): "loongarch64",
}
_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_LATEST: Final = 253402300799
"""The end of the year 9999, RFC 3339's last."""


class Metadata(NamedTuple):
    """The document's content, checked."""

    architecture: str
    """In OCI's words."""
    variant: str
    created: int
    """Seconds since the epoch; 0 when the document does not say."""
    properties: dict[str, str]
    templates: tuple[str, ...]
    """Paths that templates would be written to."""


def parse(data: bytes, what: str) -> Metadata:
    """The metadata of a unified tarball; InvalidInput, LimitExceeded."""
    document = _plain(data, what)
    if not isinstance(document, dict):
        raise InvalidInput(f"{what}: a mapping is expected")
    machine = document.get("architecture")
    if not isinstance(machine, str) or machine not in MACHINES:
        raise InvalidInput(f"{what}: architecture {machine!r:.60} is not known")
    architecture, variant = MACHINES[machine]
    created = document.get("creation_date") or "0"
    if not isinstance(created, str) or not _SECONDS.fullmatch(created) or int(created) > _LATEST:
        raise InvalidInput(f"{what}: creation_date {created!r:.60} is not a time")
    properties = _mapping(document, "properties", what)
    for key, value in properties.items():
        if not isinstance(value, str):
            raise InvalidInput(f"{what}: property {key!r:.60} is not a text")
    templates = _mapping(document, "templates", what)
    return Metadata(architecture, variant, int(created), properties, tuple(templates))


def _mapping(document: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    value = document.get(key)
    if value in (None, "", "null", "~"):
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: {key} is not a mapping")
    return value


def _plain(data: bytes, what: str) -> Any:
    """Mappings, lists and texts only; every scalar stays the text that it is written as."""
    # Imported late: an engine that never sees such an archive need not pay for it.
    import yaml

    if len(data) > MAX_METADATA:
        raise LimitExceeded(f"{what}: more than {MAX_METADATA} bytes")
    try:
        text = data.decode("utf-8")
        _count(text, what)
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"{what}: not YAML: {reason:.200}") from None


def _count(text: str, what: str) -> None:
    import yaml

    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.BaseLoader)):
        if number > MAX_EVENTS:
            raise LimitExceeded(f"{what}: more than {MAX_EVENTS} values")
        if isinstance(event, yaml.AliasEvent):
            raise InvalidInput(f"{what}: aliases are not accepted")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > MAX_NESTING:
                raise LimitExceeded(f"{what}: nested deeper than {MAX_NESTING}")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1


def config_of(metadata: Metadata, diff_id: str) -> ImageConfig:
    """An image that starts the system's init, as a container of LXC would."""
    created = timestamp(metadata.created) if metadata.created else ""
    labels = {PROPERTY + key: value for key, value in sorted(metadata.properties.items())}
    config: dict[str, Any] = {
        "Cmd": ["/sbin/init"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        # LXC's own; SysV's init and systemd power off on it, busybox's does on SIGUSR1.
        "StopSignal": "SIGUSR1"
        if metadata.properties.get("os", "").lower() == "alpine"
        else "SIGPWR",
    }
    if labels:
        config["Labels"] = labels
    return ImageConfig(
        metadata.architecture,
        "linux",
        RootFS("layers", [diff_id]),
        created=created,
        variant=metadata.variant,
        config=config,
        history=[History(created, "import of a unified tarball")],
    )


def metadata_of(image: Image, name: str) -> bytes:
    """`metadata.yaml` for an image; properties come from labels that `config_of` wrote."""
    import yaml

    key = (image.architecture, image.variant)
    machine = _NAMES.get(key) or _NAMES.get((image.architecture, "")) or image.architecture
    labels: dict[str, str] = image.config.get("Labels") or {}
    properties = {
        key.removeprefix(PROPERTY): str(value)
        for key, value in labels.items()
        if key.startswith(PROPERTY) and key != PROPERTY
    }
    title, _, tag = name.rpartition("/")[2].partition(":")
    properties.setdefault("os", title or "linux")
    properties.setdefault("release", tag or image.id[7:19])
    properties.setdefault("architecture", machine)
    properties.setdefault("description", f"{name or image.id[7:19]} ({machine})")
    document = {
        "architecture": machine,
        "creation_date": _seconds(image.created),
        "properties": dict(sorted(properties.items())),
        "templates": {},
    }
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
    return text.encode("utf-8", "replace")


def _seconds(created: str) -> int:
    found = _RFC3339.match(created)
    if found:
        import calendar

        try:
            seconds = calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S"))
        except ValueError:
            seconds = 0
        if seconds > 0:
            return seconds
    # Incus refuses an image without a date.
    return 1
