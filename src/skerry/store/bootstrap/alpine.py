"""The `alpine` image: the minirootfs of a release, which Alpine signs, as its only layer.

What is trusted is the signature alone. The mirror's list of releases only says which file to ask
for, and the version inside the archive must be the one that was asked for, so that a mirror cannot
pass off an old release as a new one's.
"""

import hashlib
import os
import platform
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skerry.base.digests import Verifier
from skerry.base.errors import DigestMismatch, InvalidInput, NotFound, Unsupported
from skerry.base.oci_image import OCI_LAYER_GZIP, Descriptor
from skerry.base.references import parse_reference
from skerry.store.bootstrap import alpine_key, fetch, signature
from skerry.store.bootstrap.base import PATH, Report, tell
from skerry.store.commit import Step, add_layer
from skerry.store.compression import decompressed, file_chunks
from skerry.store.tar_reader import FILE, Limits, TarReader

if TYPE_CHECKING:
    from skerry.store.images import Images

MIRROR: Final = "https://dl-cdn.alpinelinux.org/alpine"
_MAX_ROOTFS: Final = 128 << 20
_MAX_LIST: Final = 1 << 20
_MAX_SMALL: Final = 64 << 10
_ARCHITECTURES: Final = {"x86_64": "x86_64", "aarch64": "aarch64", "armv7l": "armv7", "i686": "x86"}
_VERSION: Final = re.compile(r"\d{1,3}\.\d{1,3}(?:\.\d{1,3}(?:_(?:alpha|beta|rc)\d{0,9})?)?|\d{8}")
_FIELD: Final = re.compile(r"\s+([a-z0-9]+):\s*(\S+)\s*")


class Request(NamedTuple):
    """What to make. `version` is `latest`, `edge`, `3.20` or `3.20.3`."""

    version: str
    mirror: str
    key: str
    """Path of the public key to trust; empty is Alpine's own."""


class _Release(NamedTuple):
    version: str
    url: str


def make(images: "Images", tag: str, request: Request, progress: Report | None) -> str:
    """The image's id. NotFound, Unavailable, DigestMismatch or Forbidden say what was wrong."""
    if tag:
        parse_reference(tag)
    keyring = signature.keyring_of(request.key) if request.key else _own_key()
    release = _find(request, progress)
    version = release.version
    tag = tag or f"alpine:{version if request.version == 'latest' else request.version}"
    layer = ""
    try:
        with images.leases.hold(), images.scratch.folder("alpine") as folder:
            archive = _download(release, folder, progress)
            _check_signature(release, archive, keyring, request, folder)
            tell(progress, f"{os.path.basename(release.url)}: checksum and signature are good")
            diff_id, newest = _inspect(archive, version)
            descriptor = _store(images, archive)
            layer = descriptor.digest
            config = _config(version)
            step = Step(
                created_by=f"skerry bootstrap alpine:{version}",
                comment="skerry bootstrap",
                created=newest,
            )
            image = add_layer(images, None, (descriptor, diff_id), config, step, [tag])
            return image.id
    finally:
        images.release([layer] if layer else [])


def _config(version: str) -> dict[str, Any]:
    labels = {
        "org.opencontainers.image.title": "alpine",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.source": "https://alpinelinux.org",
    }
    return {"Env": [PATH], "Cmd": ["/bin/sh"], "WorkingDir": "/", "Labels": labels}


def _own_key() -> bytes:
    return signature.dearmor(b"\n" + alpine_key.KEY.encode())


def _find(request: Request, progress: Report | None) -> _Release:
    """Which file to ask for."""
    version = request.version.removeprefix("v")
    if version not in ("latest", "edge") and not _VERSION.fullmatch(version):
        raise InvalidInput(
            f"not a version of Alpine: {request.version!r:.40}", hint="such as 3.20, 3.20.3 or edge"
        )
    arch = _ARCHITECTURES.get(platform.machine())
    if not arch:
        raise Unsupported(f"Alpine has no minirootfs for {platform.machine()}")
    branch = version
    if version == "latest":
        branch = "latest-stable"
    elif version != "edge":
        branch = "v" + ".".join(version.split(".")[:2])
    folder = f"{request.mirror.rstrip('/')}/{branch}/releases/{arch}"
    if version.count(".") != 2:
        tell(progress, f"asking {folder} for its latest release")
        listed = fetch.fetch(f"{folder}/latest-releases.yaml", _MAX_LIST)
        version = _latest(listed.decode("utf-8", "replace"), f"{folder}/latest-releases.yaml")
    return _Release(version, f"{folder}/alpine-minirootfs-{version}-{arch}.tar.gz")


def _latest(text: str, url: str) -> str:
    """The version of the `alpine-minirootfs` flavor in a list of releases."""
    for item in re.split(r"(?m)^-\s*$", text):
        matches = map(_FIELD.fullmatch, item.splitlines())
        fields = {match[1]: match[2] for match in matches if match}
        if fields.get("flavor") == "alpine-minirootfs":
            version = fields.get("version", "").strip("\"'")
            if not _VERSION.fullmatch(version):
                raise InvalidInput(f"{url}: {version!r:.40} is not a version")
            return version
    raise NotFound(f"{url}: it lists no alpine-minirootfs")


def _download(release: _Release, folder: str, progress: Report | None) -> str:
    """The archive, its checksums compared; its path."""
    path = os.path.join(folder, "rootfs.tar.gz")
    tell(progress, f"fetching {release.url}")
    sums = {"sha256": hashlib.sha256(), "sha512": hashlib.sha512()}
    with open(path, "wb") as file:
        for piece in fetch.stream(release.url, _MAX_ROOTFS):
            file.write(piece)
            for each in sums.values():
                each.update(piece)
    for name, seen in sums.items():
        listed = fetch.fetch(f"{release.url}.{name}", _MAX_SMALL).decode("utf-8", "replace").split()
        if not listed or listed[0].lower() != seen.hexdigest():
            raise DigestMismatch(
                f"{release.url}: {name} is {seen.hexdigest()}, the mirror says {listed[0][:128]}"
                if listed
                else f"{release.url}.{name} is empty"
            )
    return path


def _check_signature(
    release: _Release, archive: str, keyring: bytes, request: Request, folder: str
) -> None:
    path = os.path.join(folder, "rootfs.tar.gz.asc")
    with open(path, "wb") as file:
        file.write(fetch.fetch(f"{release.url}.asc", _MAX_SMALL))
    signature.verify(
        archive,
        path,
        keyring,
        folder,
        fingerprint="" if request.key else alpine_key.FINGERPRINT,
        what=release.url,
    )


def _inspect(archive: str, version: str) -> tuple[str, int]:
    """Diff id and the newest file's time; InvalidInput when it is another release."""
    seen = Verifier()
    newest = 0
    found = ""
    with open(archive, "rb") as file:
        plain = _hashed(decompressed(file_chunks(file), "minirootfs", limit=8 * _MAX_ROOTFS), seen)
        reader = TarReader(plain, "minirootfs", Limits())
        for entry in reader:
            newest = max(newest, entry.mtime_ns // 10**9)
            if entry.kind is FILE and entry.name.lstrip("./") == "etc/alpine-release":
                found = b"".join(reader.data()).decode("utf-8", "replace").strip()
    # Snapshots of edge are named by their date and carry the coming release's version.
    if found != version and not version.isdigit():
        raise InvalidInput(
            f"the mirror's minirootfs {version} holds Alpine {found or 'without a version'}"
        )
    return seen.digest, newest


def _hashed(chunks: Iterator[bytes], into: Verifier) -> Iterator[bytes]:
    for chunk in chunks:
        into.update(chunk)
        yield chunk


def _store(images: "Images", archive: str) -> Descriptor:
    with open(archive, "rb") as file, images.blobs.ingest() as writer:
        for chunk in file_chunks(file):
            writer.write(chunk)
        size = writer.size
        return Descriptor(OCI_LAYER_GZIP, writer.commit(), size)
