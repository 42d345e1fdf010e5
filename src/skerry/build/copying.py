"""COPY and ADD of files: what is taken (`select`), what it is worth (`digest`), where it goes.

`select` reads the source tree only, so its digest can be a cache key before anything is mounted.
`place` turns the selection into a stream of entries for `store.extract`, which resolves every name
inside the target's root.
"""

import hashlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from skerry.base.errors import InvalidInput, KernelFault, NotFound
from skerry.build import wildcards
from skerry.build.modes import Mode
from skerry.build.tree import Node, Tree, parts_of, resolve, walk
from skerry.store.extract import Extractor, Options
from skerry.store.paths import open_long
from skerry.store.tar_reader import DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, TarReader

MAX_FILES: Final = 2_000_000
Excluded = Callable[[str, bool], bool]
"""Whether a path (relative to its source, whether it is a directory) is left out."""


class Request(NamedTuple):
    """A COPY after expansion. `target` is absolute, with its slash when it ends in one."""

    sources: tuple[str, ...]
    target: str
    mode: Mode | None = None
    parents: bool = False
    excluded: Excluded | None = None


class Item(NamedTuple):
    """A file to be made: its name below the source's place, empty for the source itself."""

    name: str
    node: Node


class Source(NamedTuple):
    """What one source stands for. `place` is where it goes below the target: the base name, or the
    path that --parents keeps; a directory's contents go to the target itself then."""

    place: str
    directory: bool
    items: tuple[Item, ...]
    above: tuple[Item, ...] = ()
    """The directories that --parents makes on the way, by their names below the target."""


def select(tree: Tree, request: Request) -> list[Source]:
    """The files that the sources mean. NotFound, InvalidInput."""
    sources = []
    count = 0
    for text in request.sources:
        matches = _matches(tree, text, request)
        for place, top, above in matches:
            items = tuple(_items(tree, top, request.excluded))
            count += len(items)
            if count > MAX_FILES:
                raise InvalidInput(f"{tree.what}: more than {MAX_FILES} files to copy")
            sources.append(Source(place, top.kind is DIRECTORY, items, above))
    return sources


def _matches(
    tree: Tree, text: str, request: Request
) -> Iterator[tuple[str, Node, tuple[Item, ...]]]:
    pattern = wildcards.has_wildcards(text)
    base, pivot = _pivot(text) if request.parents else ("", False)
    names = wildcards.find(tree, text, deep=request.parents)
    if not names and not pattern:
        raise NotFound(f'failed to compute cache key: "{_shown(text)}": not found in {tree.what}')
    if not names:
        raise NotFound(f'no files match "{text:.200}" in {tree.what}')
    for name in names:
        node = resolve(tree, name)
        if node is None:
            continue
        if not request.parents:
            yield posixpath.basename("/".join(parts_of(name))), node, ()
            continue
        parts = parts_of(name)
        if pivot:
            parts = parts[len(parts_of(base)) :]
        yield "/".join(parts), node, tuple(_above(tree, name, parts))


def _shown(text: str) -> str:
    return "/" + "/".join(parts_of(text))


def _pivot(text: str) -> tuple[str, bool]:
    """What is before `/./`, which is not kept, and whether there is one."""
    base, pivot, _ = text.removeprefix("./").partition("/./")
    return (base, True) if pivot else ("", False)


def _above(tree: Tree, name: str, kept: list[str]) -> Iterator[Item]:
    whole = parts_of(name)
    skipped = len(whole) - len(kept)
    for count in range(1, len(kept)):
        node = resolve(tree, "/".join(whole[: skipped + count]))
        if node is not None and node.kind is DIRECTORY:
            yield Item("/".join(kept[:count]), node)


def _items(tree: Tree, top: Node, excluded: Excluded | None) -> Iterator[Item]:
    if top.kind is not DIRECTORY:
        if excluded is None or not excluded(posixpath.basename(top.path), False):
            yield Item("", top)
        return
    prefix = len(top.path) + 1 if top.path else 0
    hidden: set[str] = set()
    for node in walk(tree, top):
        name = node.path[prefix:] if node is not top else ""
        if name and excluded is not None and excluded(name, node.kind is DIRECTORY):
            hidden.add(name)
            continue
        yield Item(name, node)


def digest(tree: Tree, sources: list[Source], request: Request) -> tuple[str, dict[str, str]]:
    """The digest of all that a copy reads, and a short one for each file, to tell what changed.

    Names, kinds, permission bits, owners, attributes, link targets and contents count; times do
    not.
    """
    whole = hashlib.sha256()
    files: dict[str, str] = {}
    for source in sources:
        whole.update(_line(source.place, "/" if source.directory else "."))
        for item in (*source.above, *source.items):
            node = item.node
            content = tree.digest(node).hex() if node.kind is FILE else node.link
            mode = node.mode
            if request.mode is not None and node.kind is not SYMLINK:
                mode = request.mode.apply(mode, directory=node.kind is DIRECTORY)
            owner = (node.uid, node.gid) if tree.own else (0, 0)
            line = _line(
                item.name,
                node.kind,
                f"{mode:o}",
                *map(str, owner),
                f"{node.major}:{node.minor}",
                content,
                *(f"{key}={value.hex()}" for key, value in sorted(node.xattrs.items())),
            )
            whole.update(line)
            files["/".join(filter(None, (source.place, item.name)))] = hashlib.blake2b(
                line, digest_size=8
            ).hexdigest()
    return whole.hexdigest(), files


def _line(*fields: str) -> bytes:
    return b"\0".join(os.fsencode(field) for field in fields) + b"\n"


class Placement(NamedTuple):
    """How the target's root is written."""

    owner: tuple[int, int] | None = None
    """Instead of the files' own; (0, 0) for a context's."""
    made: int = 0
    """Time in nanoseconds of the directories that are made on the way."""


def place(tree: Tree, sources: list[Source], request: Request, root: int, how: Placement) -> int:
    """Write the selection below the target's root; how many files that were.

    InvalidInput when a directory would replace a file or the reverse.
    """
    stream = _Placed(tree, sources, request, root, how)
    options = Options(
        whiteouts=False,
        owners=how.owner is None and tree.own,
        owner=how.owner or (0, 0),
        keep_kinds=True,
    )
    with Extractor(root, stream, options) as extractor:
        extractor.run()
    return extractor.entries


class _Placed(TarReader):
    """The selection as an archive's entries."""

    def __init__(
        self, tree: Tree, sources: list[Source], request: Request, root: int, how: Placement
    ) -> None:
        super().__init__(iter(()), f"COPY to {request.target}")
        self._tree = tree
        self._sources = sources
        self._request = request
        self._root = root
        self._how = how
        self._node: Node | None = None
        self._into = _Target(root, request.target, how)
        self._first: dict[tuple[int, int], str] = {}
        """Where a file with several names was put."""
        self._inodes: dict[str, tuple[int, int]] = {}

    def data(self) -> Iterator[memoryview]:
        if self._node is not None:
            for piece in self._tree.data(self._node):
                yield memoryview(piece)

    def __iter__(self) -> Iterator[Entry]:
        request = self._request
        target = "/".join(parts_of(request.target))
        many = len(self._sources) > 1 or request.parents
        as_directory = request.target.endswith(("/", "/.")) or many or not target
        for source in self._sources:
            yield from self._one(source, target, as_directory=as_directory)

    def _one(self, source: Source, target: str, *, as_directory: bool) -> Iterator[Entry]:
        if self._request.parents:
            yield from self._into.directories(target)
            for item in source.above:
                name = f"{target}/{item.name}".strip("/")
                if not self._into.is_directory(name):
                    yield self._made(name, item.node)
            name = f"{target}/{source.place}".strip("/")
        elif source.directory:
            name = target
        else:
            if as_directory or self._into.is_directory(target):
                yield from self._into.directories(target)
                name = f"{target}/{source.place}".strip("/")
            else:
                yield from self._into.directories(target.rpartition("/")[0])
                name = target
        if source.directory:
            yield from self._into.directories(name.rpartition("/")[0])
        for item in source.items:
            full = f"{name}/{item.name}".strip("/") if item.name else name
            # The place itself, and what is a link to a directory, stay as they are.
            known = item.node.kind is DIRECTORY and self._into.is_directory(full)
            if full and not (known and (not item.name or self._into.is_link(full))):
                yield self._made(full, item.node)

    def _made(self, name: str, node: Node) -> Entry:
        before = self._link_to(name, node)
        self._node = node if node.kind is FILE and not before else None
        self._name = name
        if before:
            return Entry(name, HARDLINK, 0, 0, 0, 0, 0, before, 0, 0, {}, None)
        mode = node.mode
        if self._request.mode is not None and node.kind is not SYMLINK:
            mode = self._request.mode.apply(mode, directory=node.kind is DIRECTORY)
        return Entry(
            name,
            node.kind,
            mode,
            node.uid,
            node.gid,
            node.size,
            node.mtime_ns,
            node.link,
            node.major,
            node.minor,
            node.xattrs,
            None,
        )

    def _link_to(self, name: str, node: Node) -> str:
        """The name that a file has got already in this copy, if it has one."""
        replaced = self._inodes.pop(name, None)
        if replaced is not None and self._first.get(replaced) == name:
            del self._first[replaced]
        if node.inode is None:
            return ""
        self._inodes[name] = node.inode
        before = self._first.setdefault(node.inode, name)
        return "" if before == name else before


class _Target:
    """What is in the target's root before the copy, and what the copy has made in it."""

    def __init__(self, root: int, target: str, how: Placement) -> None:
        self._root = root
        self._how = how
        self._known: dict[str, bool] = {"": True}

    def is_directory(self, path: str) -> bool:
        if path not in self._known:
            self._known[path] = self._look(path)
        return self._known[path]

    def is_link(self, path: str) -> bool:
        above, _, name = path.rpartition("/")
        try:
            parent = open_long(self._root, above or ".", os.O_PATH | os.O_DIRECTORY)
        except KernelFault:
            return False
        try:
            return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except OSError:
            return False
        finally:
            os.close(parent)

    def _look(self, path: str) -> bool:
        try:
            os.close(open_long(self._root, path, os.O_PATH | os.O_DIRECTORY))
        except KernelFault:
            return False
        return True

    def directories(self, path: str) -> Iterator[Entry]:
        """Those on the way to `path` and itself that are missing; they get the copy's owner."""
        owner = self._how.owner or (0, 0)
        parts = path.split("/") if path else []
        for count in range(1, len(parts) + 1):
            part = "/".join(parts[:count])
            if not self.is_directory(part):
                self._known[part] = True
                yield Entry(part, DIRECTORY, 0o755, *owner, 0, self._how.made, "", 0, 0, {}, None)
