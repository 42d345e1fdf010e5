"""OCI image-spec v1.1 (descriptor, manifest, index, config) and Docker's schema 2 manifests.

The two families differ in media types only. Everything here may come from a registry or from a
file that somebody sent, so bytes meet their limits before they meet the parser. Not lean: it
imports msgspec.
"""

import json
import math
import re
from typing import Any, Final, TypeVar

import msgspec

from skerry.base.digests import parse_digest
from skerry.base.errors import InvalidInput, LimitExceeded

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
LAYERS: Final = frozenset(
    {OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP}
)

REF_NAME: Final = "org.opencontainers.image.ref.name"
"""Annotation of a descriptor in `index.json`: the name that tools address the image by."""

MAX_DOCUMENT: Final = 8 << 20
"""Bytes of a manifest, index or config; registries refuse manifests over 4 MiB."""
MAX_DEPTH: Final = 64
MAX_LAYERS: Final = 500
MAX_HISTORY: Final = 4096
MAX_MANIFESTS: Final = 4096
_DIGITS: Final = 20
MAX_URLS: Final = 16
MAX_ANNOTATIONS: Final = 1024


class Platform(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a manifest in an index runs on."""

    architecture: str
    os: str
    os_version: str = msgspec.field(default="", name="os.version")
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Where content is: media type, digest and size in bytes (image-spec descriptor.md)."""

    media_type: str
    digest: str
    size: int
    urls: list[str] = []
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One image: its config and its layers, bottom-most first (manifest.md)."""

    schema_version: int = msgspec.field(name="schemaVersion")
    config: Descriptor
    layers: list[Descriptor]
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Several manifests, usually one a platform (image-index.md)."""

    schema_version: int = msgspec.field(name="schemaVersion")
    manifests: list[Descriptor]
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one step of the image came about. `created` is RFC 3339."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFS(msgspec.Struct, frozen=True):
    """The uncompressed layers' digests, bottom-most first."""

    type: str
    diff_ids: list[str]


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The image's configuration (config.md). Its digest is the image's id.

    `config` keeps the object as it came: OCI's fields and Docker's further ones (Healthcheck,
    OnBuild, Shell, StopTimeout).
    """

    architecture: str
    os: str
    rootfs: RootFS
    created: str = ""
    author: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    comment: str = ""
    config: dict[str, Any] | None = None
    history: list[History] | None = None


_T = TypeVar("_T", bound=msgspec.Struct)
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[{\]}]")


def _depth(data: bytes) -> int:
    """At least how deep it is nested; exact where that matters."""
    if (few := data.count(b"[") + data.count(b"{")) <= MAX_DEPTH:
        return few
    depth = deepest = 0
    for match in _BRACKETS.finditer(_STRINGS.sub(b"", data)):
        depth += 1 if match.group() in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _parse(data: bytes, kind: type[_T], what: str, *, own: bool) -> _T:
    if len(data) > MAX_DOCUMENT:
        raise LimitExceeded(f"{what}: {len(data)} bytes, at most {MAX_DOCUMENT} are read")
    if not own and _depth(data) > MAX_DEPTH:
        raise LimitExceeded(f"{what}: nested deeper than {MAX_DEPTH}")
    try:
        if own:
            return msgspec.json.decode(data, type=kind)
        return msgspec.convert(_strict(data), kind)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"{what}: {error}") from None


def _strict(data: bytes) -> Any:
    """JSON as every reader understands it: RFC 8259, UTF-8, no key twice. ValueError."""
    document = json.loads(
        data.decode(),
        object_pairs_hook=_each_key_once,
        parse_constant=_no_number,
        parse_float=_finite,
        parse_int=_in_a_word,
    )
    if b"\\u" in data:
        # Half a surrogate pair is no text.
        json.dumps(document, ensure_ascii=False).encode()
    return document


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that comes twice means one thing to us and another to the next reader."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
        raise ValueError(f"the key {twice!r:.100} comes twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text:.40} is out of range")
    return number


def _in_a_word(text: str) -> int:
    if len(text) > _DIGITS or not -(1 << 63) <= (number := int(text)) < 1 << 64:
        raise ValueError(f"the number {text:.40} is out of range")
    return number


def _check_descriptor(descriptor: Descriptor, what: str) -> None:
    parse_digest(descriptor.digest)
    if not 0 <= descriptor.size < 1 << 62:
        raise InvalidInput(f"{what}: size {descriptor.size} of {descriptor.digest}")
    if len(descriptor.urls) > MAX_URLS:
        raise LimitExceeded(f"{what}: more than {MAX_URLS} urls for {descriptor.digest}")
    if len(descriptor.annotations) > MAX_ANNOTATIONS:
        raise LimitExceeded(f"{what}: more than {MAX_ANNOTATIONS} annotations")


def _check_version(version: int, what: str) -> None:
    if version != 2:
        raise InvalidInput(f"{what}: schemaVersion {version} is not supported, only 2 is")


def parse_manifest(data: bytes, what: str = "manifest", *, own: bool = False) -> Manifest:
    """An OCI or Docker schema 2 image manifest; InvalidInput or LimitExceeded. `own` for one of the
    store's, which was parsed with care when it came in."""
    manifest = _parse(data, Manifest, what, own=own)
    _check_version(manifest.schema_version, what)
    if manifest.media_type and manifest.media_type not in MANIFESTS:
        raise InvalidInput(f"{what}: media type {manifest.media_type!r:.100} is no image manifest")
    if len(manifest.layers) > MAX_LAYERS:
        raise LimitExceeded(f"{what}: {len(manifest.layers)} layers, at most {MAX_LAYERS}")
    for descriptor in (manifest.config, *manifest.layers):
        _check_descriptor(descriptor, what)
    return manifest


def parse_index(data: bytes, what: str = "index") -> Index:
    """An OCI index or Docker manifest list; InvalidInput or LimitExceeded."""
    index = _parse(data, Index, what, own=False)
    _check_version(index.schema_version, what)
    if index.media_type and index.media_type not in INDEXES:
        raise InvalidInput(f"{what}: media type {index.media_type!r:.100} is no image index")
    if len(index.manifests) > MAX_MANIFESTS:
        raise LimitExceeded(f"{what}: more than {MAX_MANIFESTS} manifests")
    for descriptor in index.manifests:
        _check_descriptor(descriptor, what)
    return index


def parse_config(data: bytes, what: str = "image config", *, own: bool = False) -> ImageConfig:
    """An OCI or Docker image configuration; InvalidInput or LimitExceeded. `own` as above."""
    config = _parse(data, ImageConfig, what, own=own)
    if config.rootfs.type != "layers":
        raise InvalidInput(f"{what}: rootfs type {config.rootfs.type!r:.40} is not 'layers'")
    if len(config.rootfs.diff_ids) > MAX_LAYERS:
        raise LimitExceeded(f"{what}: more than {MAX_LAYERS} layers")
    if len(config.history or ()) > MAX_HISTORY:
        raise LimitExceeded(f"{what}: more than {MAX_HISTORY} steps of history")
    for diff_id in config.rootfs.diff_ids:
        parse_digest(diff_id)
    return config


def encode(document: msgspec.Struct) -> bytes:
    """Canonical bytes of a document: the same content always has the same digest."""
    return msgspec.json.encode(document, order="deterministic")
