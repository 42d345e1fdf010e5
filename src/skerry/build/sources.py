"""What ADD takes from elsewhere, and here-documents as files: one tree over several."""

import contextlib
import os
from collections.abc import Iterator, Mapping

from skerry.base.errors import InvalidInput, KernelFault, NotFound
from skerry.build import context, repositories
from skerry.build.directory import DirectoryTree
from skerry.build.downloads import Downloads, FileTree
from skerry.build.git_access import Access
from skerry.build.operations import Copy
from skerry.build.tree import Node, Tree
from skerry.kernel.descriptors import open_in_root
from skerry.store import Store
from skerry.store.tar_reader import DIRECTORY
from skerry.store.trees import remove_tree


class Joined:
    """Trees side by side, each below its own name at the top."""

    own = False

    def __init__(self, trees: Mapping[str, Tree]) -> None:
        self.what = "the sources of ADD"
        self._trees = trees

    def get(self, path: str) -> Node | None:
        """The file itself."""
        if not path:
            return Node("", DIRECTORY, 0o755, 0, 0, 0, 0, "", 0, 0, {})
        name, _, rest = path.partition("/")
        tree = self._trees.get(name)
        node = tree.get(rest) if tree is not None else None
        return None if node is None else node._replace(path=path)

    def names(self, path: str) -> list[str]:
        """What a directory holds."""
        if not path:
            return sorted(self._trees)
        name, _, rest = path.partition("/")
        return self._trees[name].names(rest)

    def digest(self, node: Node) -> bytes:
        """SHA-256."""
        return self._of(node)[0].digest(self._of(node)[1])

    def data(self, node: Node) -> Iterator[bytes | memoryview]:
        """Its bytes."""
        tree, inner = self._of(node)
        return tree.data(inner)

    def _of(self, node: Node) -> tuple[Tree, Node]:
        name, _, rest = node.path.partition("/")
        return self._trees[name], node._replace(path=rest)


class Remote:
    """Fetches for one build."""

    def __init__(self, store: Store, downloads: Downloads, folder: str, access: Access) -> None:
        self._store = store
        self._access = access
        self._folder = folder
        self._downloads = downloads

    def inline(self, operation: Copy, held: contextlib.AsyncExitStack) -> Tree:
        """Here-documents as files."""
        tree = context.from_files(dict(operation.files), "the here-documents", self._folder)
        held.callback(tree.close)
        return tree

    async def fetch(
        self, operation: Copy, local: Tree | None, held: contextlib.AsyncExitStack
    ) -> tuple[Tree, Copy]:
        """Everything that the sources name, as one tree, and the operation with its new names."""
        trees: dict[str, Tree] = {}
        names: list[str] = []
        for number, source in enumerate(operation.sources):
            place = f"{number}"
            if not repositories.is_remote(source):
                if local is None:
                    raise InvalidInput(f"ADD {source}: the build has no context")
                trees["local"] = local
                names.append(f"local/{source.lstrip('/')}")
            elif repositories.is_repository(source):
                trees[place] = await self._repository(source, operation, held)
                names.append(place)
            else:
                found = await self._downloads.fetch(source, operation.checksum)
                if not found.name and operation.target.endswith("/"):
                    raise InvalidInput(
                        f"ADD {source}: cannot tell a file name from the URL",
                        hint="name the file in the target",
                    )
                tree = FileTree(found, source)
                trees[place] = tree
                names.append(f"{place}/{tree.name}")
        return Joined(trees), operation._replace(sources=tuple(names))

    async def _repository(
        self, source: str, operation: Copy, held: contextlib.AsyncExitStack
    ) -> Tree:
        return await checkout(
            self._store,
            source,
            held,
            self._access,
            checksum=operation.checksum,
            keep_git_dir=operation.keep_git_dir,
        )


async def checkout(
    store: Store,
    source: str,
    held: contextlib.AsyncExitStack,
    access: Access,
    *,
    checksum: str = "",
    keep_git_dir: bool | None = None,
) -> DirectoryTree:
    """A repository's files, until `held` ends. What the source says of `.git` must not be
    contradicted by `keep_git_dir`."""
    repository = repositories.parse(source)
    said = repository.keep_git_dir
    if said is not None and keep_git_dir is not None and said != keep_git_dir:
        raise InvalidInput(f"{source:.200}: inconsistent keep-git-dir configuration")
    folder = store.scratch.path("git")
    held.callback(remove_tree, folder)
    async with access.environment(repository.url) as variables:
        await repositories.fetch(repository, folder, checksum=checksum, environment=variables)
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        root = open_in_root(top, repository.directory or ".", os.O_RDONLY | os.O_DIRECTORY)
    except KernelFault as fault:
        raise NotFound(f"{source}: {repository.directory}: {os.strerror(fault.errno)}") from None
    finally:
        os.close(top)
    skip = frozenset() if said or keep_git_dir else frozenset({".git"})
    tree = DirectoryTree(root, source, own=False, skip=skip)
    held.callback(tree.close)
    return tree
