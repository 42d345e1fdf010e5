"""Garbage collection of a `Directory`: mark from the manifests, sweep what is old and not marked.

It runs beside pushes. Two things make that safe: nothing younger than `before` is touched, and
whoever relies on an old blob makes it young first, under the same lock of its digest under which
the sweep looks at its time and removes it. So a push that finds a blob here, skips its upload and
sends the manifest an instant later finds the blob still here.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from skerry.registry.server.disk import Stripes, entries, read_small
from skerry.registry.server.documents import Document, parse
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Collected

_MAX_DOCUMENT = 16 << 20


class _Marks(NamedTuple):
    blobs: set[str]
    manifests: set[str]


def repositories(root: str) -> Iterator[str]:
    """Names of the repositories that hold a manifest."""
    top = os.path.join(root, "repositories")
    for folder, below, _ in os.walk(top):
        name = os.path.relpath(folder, top)
        if "_manifests" in below and holds_manifest(root, name):
            yield name
        below[:] = [each for each in below if not each.startswith("_")]


def _every(root: str) -> Iterator[str]:
    """Names of all repositories, also of those that only have blobs yet."""
    top = os.path.join(root, "repositories")
    for folder, below, _ in os.walk(top):
        if any(each.startswith("_") for each in below):
            yield os.path.relpath(folder, top)
        below[:] = [each for each in below if not each.startswith("_")]


def holds_manifest(root: str, repository: str) -> bool:
    """Whether there is any."""
    return any(True for _ in links(root, repository, "_manifests"))


def links(root: str, repository: str, kind: str) -> Iterator[str]:
    """The digests below `_blobs` or `_manifests`."""
    folder = os.path.join(root, "repositories", repository, kind)
    for algorithm in entries(folder):
        for digits in entries(os.path.join(folder, algorithm)):
            yield f"{algorithm}:{digits}"


def document(root: str, repository: str, digest: str) -> Document | None:
    """A stored manifest, understood; None when it has gone meanwhile."""
    place = os.path.join(root, "repositories", repository, "_manifests", digest.replace(":", "/"))
    media_type = read_small(place)
    try:
        with open(os.path.join(root, "blobs", digest.replace(":", "/")), "rb") as file:
            return parse(file.read(_MAX_DOCUMENT), media_type, digest=digest)
    except (FileNotFoundError, Refusal):
        return None


def drop_manifest(root: str, repository: str, digest: str) -> None:
    """Remove tags, link and the entry as a referrer, in this order."""
    base = os.path.join(root, "repositories", repository)
    known = document(root, repository, digest)
    for tag in entries(os.path.join(base, "_tags")):
        path = os.path.join(base, "_tags", tag)
        if read_small(path) == digest:
            os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(base, "_manifests", digest.replace(":", "/")))
    if known and known.subject:
        folder = os.path.join(base, "_referrers", known.subject.replace(":", "/"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, digest.replace(":", "-")))


def collect(
    root: str, *, before: float, untagged: bool, claims: Stripes, repositories_locks: Stripes
) -> Collected:
    """Remove what no manifest needs and what was last relied on before `before` (epoch seconds)."""
    total = Collected()
    kept: set[str] = set()
    for name in list(_every(root)):
        if untagged:
            with repositories_locks.of(name):
                gone = _drop_untagged(root, name, before)
            total = total._replace(manifests=total.manifests + gone)
        marks = _mark(root, name)
        kept |= marks.manifests | marks.blobs
        for digest in list(links(root, name, "_blobs")):
            path = os.path.join(root, "repositories", name, "_blobs", digest.replace(":", "/"))
            with claims.of(digest):
                if digest not in marks.blobs and _remove_old(path, before) >= 0:
                    total = total._replace(links=total.links + 1)
                else:
                    kept.add(digest)
    for algorithm in entries(os.path.join(root, "blobs")):
        for digits in entries(os.path.join(root, "blobs", algorithm)):
            digest = f"{algorithm}:{digits}"
            if digest in kept:
                continue
            with claims.of(digest):
                size = _remove_old(os.path.join(root, "blobs", algorithm, digits), before)
            if size >= 0:
                total = total._replace(blobs=total.blobs + 1, bytes=total.bytes + size)
    return total


def _mark(root: str, repository: str) -> _Marks:
    marks = _Marks(set(), set())
    for digest in list(links(root, repository, "_manifests")):
        marks.manifests.add(digest)
        found = document(root, repository, digest)
        if found is not None:
            marks.blobs.update(piece.digest for piece in found.blobs)
    return marks


def _drop_untagged(root: str, repository: str, before: float) -> int:
    """Remove manifests that no tag leads to: not itself, nor an index, nor what it refers to."""
    base = os.path.join(root, "repositories", repository)
    known = {
        each: document(root, repository, each) for each in links(root, repository, "_manifests")
    }
    tags = (read_small(os.path.join(base, "_tags", tag)) for tag in entries(base + "/_tags"))
    wanted = set(tags)
    todo = list(wanted)
    referrers: dict[str, list[str]] = {}
    for digest, found in known.items():
        if found is not None and found.subject:
            referrers.setdefault(found.subject, []).append(digest)
    while todo:
        digest = todo.pop()
        found = known.get(digest)
        nearby = [piece.digest for piece in found.manifests] if found else []
        for each in nearby + referrers.get(digest, []):
            if each not in wanted:
                wanted.add(each)
                todo.append(each)
    gone = 0
    for digest in known:
        link = os.path.join(base, "_manifests", digest.replace(":", "/"))
        with contextlib.suppress(FileNotFoundError):
            if digest not in wanted and os.stat(link).st_mtime < before:
                drop_manifest(root, repository, digest)
                gone += 1
    return gone


def _remove_old(path: str, before: float) -> int:
    """Bytes of a file that was removed because it was old; -1 when it stays or is not there."""
    try:
        found = os.stat(path)
        if found.st_mtime >= before:
            return -1
        os.unlink(path)
    except FileNotFoundError:
        return -1
    return found.st_size
