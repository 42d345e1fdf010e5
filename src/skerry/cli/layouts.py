"""OCI image layout folders on the client's side: read as an archive, made from one.

The engine reads and writes archives only. A folder may come from anywhere, so a digest is checked
before it becomes a path, and a blob's content before it gets its name.
"""

from __future__ import annotations

import os
import re

from skerry.base.digests import parse_digest
from skerry.base.errors import InvalidInput, LimitExceeded, NotFound
from skerry.sdk import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

REF_NAME = "org.opencontainers.image.ref.name"
VERSION = b'{"imageLayoutVersion":"1.0.0"}'
MAX_DOCUMENT = 8 << 20
MAX_BLOBS = 50_000
_BLOCK = 1 << 18
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")


def read(folder: str, reference: str) -> Iterator[bytes]:
    """The layout as a tar archive: every blob that its index reaches.

    With a reference only what has that name, tag or digest. NotFound, InvalidInput, raised at once.
    """
    index = _document(os.path.join(folder, "index.json"))
    listed = _descriptors(index, "manifests")
    if reference:
        chosen = [each for each in listed if reference in (_name(each), each.get("digest"))]
        chosen = chosen or [each for each in listed if _name(each).endswith(f":{reference}")]
        if not chosen:
            names = ", ".join(name for name in map(_name, listed[:10]) if name)
            raise NotFound(
                f"the OCI layout {folder} holds no image {reference}",
                hint=f"it has {names}" if names else "its images have no names",
            )
        index["manifests"] = listed = chosen + _about(folder, chosen, listed)
    digests = _reachable(folder, listed)
    return _archive(folder, wire.dumps(index).encode(), digests)


def _about(
    folder: str, chosen: list[dict[str, Any]], listed: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Those of `listed` whose subject is among the chosen or in an index among them."""
    wanted = set(_reachable(folder, chosen))
    found = []
    for each in listed:
        path = _path(folder, str(each.get("digest")))
        if each in chosen or "manifest" not in str(each.get("mediaType")):
            continue
        if os.path.exists(path):
            subject = _document(path).get("subject")
            if isinstance(subject, dict) and subject.get("digest") in wanted:
                found.append(each)
    return found


def _reachable(folder: str, listed: list[dict[str, Any]]) -> list[str]:
    """Digests of every blob below these descriptors that the folder has."""
    found: dict[str, None] = {}
    waiting = list(listed)
    while waiting:
        descriptor = waiting.pop()
        digest = parse_digest(str(descriptor.get("digest")))
        if digest in found:
            continue
        found[digest] = None
        if len(found) > MAX_BLOBS:
            raise LimitExceeded(f"the OCI layout {folder}: more than {MAX_BLOBS} blobs")
        kind = str(descriptor.get("mediaType"))
        path = _path(folder, digest)
        if "manifest" not in kind and "index" not in kind:
            continue
        if not os.path.exists(path):
            # Of an index often only this machine's platform was copied.
            del found[digest]
            continue
        document = _document(path)
        waiting += _descriptors(document, "manifests") + _descriptors(document, "layers")
        config = document.get("config")
        if isinstance(config, dict):
            waiting.append(config)
    return [digest for digest in found if os.path.exists(_path(folder, digest))]


def _path(folder: str, digest: str) -> str:
    algorithm, _, name = parse_digest(digest).partition(":")
    return os.path.join(folder, "blobs", algorithm, name)


def _document(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_DOCUMENT:
        raise LimitExceeded(f"{path} is larger than {MAX_DOCUMENT} bytes")
    try:
        value = wire.loads(data)
    except (InvalidInput, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} is no JSON object")
    return value


def _descriptors(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    listed = document.get(key)
    if not isinstance(listed, list):
        return []
    return [each for each in listed if isinstance(each, dict)]


def _name(descriptor: dict[str, Any]) -> str:
    annotations = descriptor.get("annotations")
    return str(annotations.get(REF_NAME) or "") if isinstance(annotations, dict) else ""


def _archive(folder: str, index: bytes, digests: list[str]) -> Iterator[bytes]:
    import tarfile

    def header(name: str, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.USTAR_FORMAT)

    for name, data in (("oci-layout", VERSION), ("index.json", index)):
        yield header(name, len(data)) + data + bytes(-len(data) % 512)
    for digest in digests:
        try:
            with open(_path(folder, digest), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                yield header("blobs/" + digest.replace(":", "/"), size)
                left = size
                while left:
                    data = file.read(min(left, _BLOCK))
                    if not data:
                        raise InvalidInput(f"{file.name} became shorter while it was read")
                    left -= len(data)
                    yield data
                yield bytes(-size % 512)
        except OSError as error:
            raise InvalidInput(f"cannot read blob {digest}: {error.strerror}") from None
    yield bytes(1024)


def write(folder: str, chunks: Iterable[bytes]) -> list[str]:
    """Add an oci-archive's images to the layout in `folder`, which is made when it is not there.

    A name that the layout has already moves to the new image. Blobs come before the index that
    names them, each under a temporary name until it is whole. The names that were written.
    """
    import tarfile

    from skerry.sdk.unpack import ChunkFile

    fresh: dict[str, Any] | None = None
    try:
        os.makedirs(os.path.join(folder, "blobs", "sha256"), exist_ok=True)
        with tarfile.open(fileobj=ChunkFile(iter(chunks)), mode="r|") as tar:  # type: ignore[call-overload]
            for info in tar:
                file = tar.extractfile(info) if info.isreg() else None
                blob = _BLOB.fullmatch(info.name)
                if blob and file:
                    _blob(folder, blob[1], file)
                elif info.name == "index.json" and file and info.size <= MAX_DOCUMENT:
                    fresh = wire.loads(file.read())
        if not isinstance(fresh, dict):
            raise InvalidInput("the engine's archive has no index")
        _replace(os.path.join(folder, "oci-layout"), VERSION)
        return _merge(folder, fresh)
    except OSError as error:
        raise InvalidInput(f"cannot write {folder}: {error.strerror or error}") from None
    except tarfile.TarError as error:
        raise InvalidInput(f"the engine's archive is broken: {error}") from None


def _blob(folder: str, name: str, file: Any) -> None:
    import hashlib

    path = os.path.join(folder, "blobs", "sha256", name)
    if os.path.exists(path):
        return
    seen = hashlib.sha256()
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "xb") as out:
            while data := file.read(_BLOCK):
                seen.update(data)
                out.write(data)
        if seen.hexdigest() != name:
            raise InvalidInput(f"blob sha256:{name} came with other content")
        os.rename(part, path)
    finally:
        if os.path.exists(part):
            os.unlink(part)


def _merge(folder: str, fresh: dict[str, Any]) -> list[str]:
    path = os.path.join(folder, "index.json")
    old = _document(path) if os.path.exists(path) else {"schemaVersion": 2}
    added = _descriptors(fresh, "manifests")
    names = {_name(each) for each in added}
    digests = {each.get("digest") for each in added}
    kept = [
        each
        for each in _descriptors(old, "manifests")
        if (_name(each) not in names if _name(each) else each.get("digest") not in digests)
    ]
    _replace(path, wire.dumps(old | {"manifests": kept + added}).encode())
    return sorted(name for name in names if name)


def _replace(path: str, data: bytes) -> None:
    part = f"{path}.{os.getpid()}.part"
    with open(part, "wb") as file:
        file.write(data)
    os.rename(part, path)
