"""What a build copies from: a context, a stage, an image, a repository, all looked at alike.

A tree does not change while it is used: contexts and repositories are the builder's own, stages and
images are read-only. Paths are relative to the tree's root, without `.` and empty components; the
root is the empty string. Symbolic links are followed by `resolve` alone, which stays in the tree as
a process with that root would.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from skerry.base.errors import InvalidInput
from skerry.store.tar_reader import DIRECTORY, SYMLINK

MAX_LINKS: Final = 40
"""As the kernel's MAXSYMLINKS."""
MAX_DEPTH: Final = 2000


class Node(NamedTuple):
    """One file. `kind` is one of `store.tar_reader`'s letters."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: str
    major: int
    minor: int
    xattrs: dict[str, bytes]
    inode: tuple[int, int] | None = None
    """Device and inode of a file that has further names in a root file system."""


class Tree(Protocol):
    """Files by path."""

    what: str
    """How errors name it: `build context`, `stage builder`, `image busybox:latest`."""
    own: bool
    """Whether owners mean something: those of a context are the client's, and count as root."""

    def get(self, path: str) -> Node | None:
        """The file itself, links not followed; None when there is none. Parents hold no links."""

    def names(self, path: str) -> list[str]:
        """What a directory holds, in order."""

    def digest(self, node: Node) -> bytes:
        """SHA-256 of a regular file's bytes."""

    def data(self, node: Node) -> Iterator[bytes | memoryview]:
        """A regular file's bytes."""


def parts_of(path: str) -> list[str]:
    """The components of a path; `..` does not climb over the root."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def resolve(tree: Tree, path: str, *, last: bool = True) -> Node | None:
    """The file at a path whose links are followed inside the tree; None when there is none.

    With `last=False` a link at the end is the answer itself. InvalidInput for a loop.
    """
    waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    here: list[str] = []
    links = 0
    node = tree.get("")
    while waiting:
        if len(waiting) + len(here) > MAX_DEPTH:
            raise InvalidInput(f"{tree.what}: {path!r:.200}: too many components")
        part = waiting.pop()
        if part == "..":
            del here[-1:]
            node = tree.get("/".join(here))
            continue
        if node is not None and node.kind is not DIRECTORY:
            return None
        node = tree.get("/".join([*here, part]))
        if node is None:
            return None
        if node.kind is SYMLINK and (waiting or last):
            links += 1
            if links > MAX_LINKS:
                raise InvalidInput(f"{tree.what}: {path!r:.200}: too many levels of links")
            if node.link.startswith("/"):
                here = []
            waiting.extend(p for p in reversed(node.link.split("/")) if p not in ("", "."))
            node = tree.get("/".join(here))
            continue
        here.append(part)
    return node


def walk(tree: Tree, top: Node) -> Iterator[Node]:
    """The node and everything below it, parents first, names in order; nothing is followed."""
    stack = [top]
    while stack:
        node = stack.pop()
        yield node
        if node.kind is DIRECTORY:
            prefix = f"{node.path}/" if node.path else ""
            for name in reversed(tree.names(node.path)):
                below = tree.get(prefix + name)
                if below is not None:
                    stack.append(below)
