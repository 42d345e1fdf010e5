"""What is in an image: its file system read as it would be mounted, listed as SPDX or CycloneDX.

The layers are put together by the kernel (a detached, read-only overlay that nobody else sees), so
whiteouts count as they do for a container. Nothing in it is executed, links are followed inside the
image only, and special files are never opened for reading.
"""

import asyncio
import io
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from skerry.base.digests import sha256
from skerry.base.errors import InvalidInput, KernelFault, LimitExceeded, NotFound
from skerry.base.isolation import Overlay
from skerry.base.oci_image import OCI_MANIFEST, Descriptor
from skerry.base.references import parse_reference
from skerry.engine import artifacts
from skerry.engine.transfer import Transfer
from skerry.kernel.descriptors import open_in_root
from skerry.kernel.mounts import overlay_fd
from skerry.registry.auth import Credential
from skerry.store import Store, referrers
from skerry.store.image import Image
from skerry.store.referrers import Referrer
from skerry.trust import packages, sbom
from skerry.trust.packages import MAX_DATABASE, MAX_METADATA, MAX_PACKAGES, Distribution, Package

MAX_FILES: Final = 2_000_000
MAX_DEPTH: Final = 100
_SKIPPED: Final = frozenset({"proc", "sys", "dev"})

Reader = Callable[[bytes, str], Iterator[Package]]


class Sbom:
    """The service."""

    def __init__(self, store: Store, transfer: Transfer) -> None:
        self._store = store
        self._transfer = transfer

    async def make(self, name: str, form: str = sbom.SPDX) -> bytes:
        """The document of an image that is here."""
        if form not in sbom.MEDIA_TYPES:
            sbom.document(form, sbom.Subject("", "", ""), ())
        return await asyncio.to_thread(self._make, name, form)

    async def attach(self, name: str, form: str, credential: Credential | None = None) -> str:
        """Store the document in the image's registry as its referrer; the manifest's digest.

        InvalidInput unless the registry has the very image that is here.
        """
        reference = parse_reference(name)
        image = self._store.images.get(name)
        data = await self.make(name, form)
        async with self._transfer.client(reference.registry, credential) as client:
            wanted = reference.digest or reference.tag
            found = await client.image(reference.repository, wanted)
            if found.document.digest != image.manifest:
                raise InvalidInput(
                    f"sbom {reference.familiar}: the registry has {found.document.digest}, here is "
                    f"{image.manifest}",
                    hint="push or pull the image first",
                )
            made = sbom.attachment(form, data, found.document.descriptor)
            for descriptor, content in made.blobs:
                opener = partial(_file, content)
                await artifacts.send_blob(client, reference, descriptor, opener)
            digest = sha256(made.manifest)
            return await client.put_manifest(
                reference.repository, digest, made.manifest, OCI_MANIFEST
            )

    async def keep(self, name: str, form: str) -> str:
        """Store the document here as the image's referrer; the manifest's digest. A push takes it
        along."""
        data = await self.make(name, form)
        image = self._store.images.get(name)
        subject = Descriptor(image.media_type, image.manifest, image.manifest_size)
        made = sbom.attachment(form, data, subject)
        return await asyncio.to_thread(
            referrers.add, self._store.images, made.manifest, list(made.blobs)
        )

    def kept(self, name: str) -> list[Referrer]:
        """What is stored here about an image."""
        return self.about(self._store.images.get(name))

    def about(self, image: Image) -> list[Referrer]:
        """The same of one that was looked up already."""
        return referrers.about(self._store.images, image.manifest)

    def _make(self, name: str, form: str) -> bytes:
        with self._store.leases.hold():
            image = self._store.images.get(name)
            missing = [layer for layer in image.layers if not self._store.layers.has(layer)]
            if missing:
                raise NotFound(f"sbom {name}: layer {missing[0]} is not here")
            root = _open([self._store.layers.path(layer) for layer in image.layers])
            try:
                distribution, found = examine(root)
            finally:
                os.close(root)
        shown = image.tags[0] if image.tags else image.id
        subject = sbom.Subject(shown, image.manifest, image.created, distribution)
        return sbom.document(form, subject, found)


def examine(root: int) -> tuple[Distribution, list[Package]]:
    """The distribution and the packages below an open root folder. LimitExceeded."""
    release = _read(root, "etc/os-release", MAX_METADATA) or b""
    if not release:
        release = _read(root, "usr/lib/os-release", MAX_METADATA) or b""
    found: list[Package] = []
    sources = (_databases(root), MAX_DATABASE), (_files(root), MAX_METADATA)
    for path, reader, limit in ((*each, limit) for walk, limit in sources for each in walk):
        data = _read(root, path, limit)
        if data is not None:
            found += reader(data, "/" + path.encode("utf-8", "replace").decode())
        if len(found) > MAX_PACKAGES:
            raise LimitExceeded(f"sbom: more than {MAX_PACKAGES} packages")
    return packages.os_release(release), found


def _databases(root: int) -> Iterator[tuple[str, Reader]]:
    yield "var/lib/dpkg/status", packages.dpkg
    try:
        folder = open_in_root(root, "var/lib/dpkg/status.d", os.O_RDONLY | os.O_DIRECTORY)
    except KernelFault:
        names = []
    else:
        try:
            names = sorted(os.listdir(folder))
        finally:
            os.close(folder)
    for name in names[:MAX_PACKAGES]:
        if not name.endswith(".md5sums"):
            yield f"var/lib/dpkg/status.d/{name}", packages.dpkg
    for path in ("usr/lib/apk/db/installed", "lib/apk/db/installed"):
        if _read(root, path, MAX_DATABASE) is not None:
            yield path, packages.apk
            return


def _files(root: int) -> Iterator[tuple[str, Reader]]:
    """Metadata files of languages' packages, in the whole tree. Links are not followed."""
    count = 0
    for folder, folders, names, _ in os.fwalk(".", dir_fd=root):
        count += len(folders) + len(names)
        if count > MAX_FILES:
            raise LimitExceeded(f"sbom: more than {MAX_FILES} files")
        parts = folder.split("/")[1:]
        if not parts:
            folders[:] = [name for name in folders if name not in _SKIPPED]
        if len(parts) >= MAX_DEPTH:
            folders.clear()
        folders.sort()
        here = "/".join(parts)
        last = parts[-1] if parts else ""
        if last.endswith(".dist-info") and "METADATA" in names:
            yield f"{here}/METADATA", packages.pip
        if last.endswith(".egg-info") and "PKG-INFO" in names:
            yield f"{here}/PKG-INFO", packages.pip
        for name in sorted(names):
            if name.endswith(".egg-info"):
                yield f"{here}/{name}", packages.pip
        if "package.json" in names and _is_installed(parts):
            yield f"{here}/package.json", packages.npm


def _is_installed(parts: list[str]) -> bool:
    """Whether a folder is `node_modules/NAME` or `node_modules/@SCOPE/NAME`."""
    above = parts[-2:-1]
    return above == ["node_modules"] or (
        parts[-3:-2] == ["node_modules"] and above[0].startswith("@")
    )


def _read(root: int, path: str, limit: int) -> bytes | None:
    """A regular file inside the root; None when there is none or it is larger than `limit`."""
    try:
        # Not blocking: what has the file's name may be a pipe.
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except KernelFault:
        return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        return file.read(limit)


def _open(layers: list[str]) -> int:
    """The layers (bottom-most first) as one folder. The caller closes."""
    if not layers:
        raise InvalidInput("sbom: the image has no layers")
    if len(layers) == 1:
        return os.open(layers[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mount = overlay_fd(Overlay(tuple(reversed(layers))))
    try:
        # What fsmount gives is no folder that can be listed.
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    finally:
        os.close(mount)


def _file(data: bytes, digest: str) -> io.BytesIO:
    return io.BytesIO(data)
