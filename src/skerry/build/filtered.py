"""A context without what its own .dockerignore leaves out: for those that no client has packed."""

from collections.abc import Iterator

from skerry.base.ignore import Matcher, compile_rules, read
from skerry.build.tree import Node, Tree
from skerry.store.tar_reader import DIRECTORY, FILE


class Filtered:
    """The files of a tree that a matcher keeps. A directory that is left out stays where something
    in it may come back by an exception."""

    def __init__(self, tree: Tree, matcher: Matcher) -> None:
        self.what = tree.what
        self.own = tree.own
        self._tree = tree
        self._matcher = matcher

    def get(self, path: str) -> Node | None:
        """The file itself."""
        node = self._tree.get(path)
        if node is None or not path or not self._excluded(path, node.kind is DIRECTORY):
            return node
        return None

    def _excluded(self, path: str, is_dir: bool) -> bool:
        out = self._matcher.excluded(path, is_dir)
        return out and not (is_dir and not self._matcher.prunable(path))

    def names(self, path: str) -> list[str]:
        """What a directory holds."""
        prefix = f"{path}/" if path else ""
        return [name for name in self._tree.names(path) if self.get(prefix + name) is not None]

    def digest(self, node: Node) -> bytes:
        """SHA-256."""
        return self._tree.digest(node)

    def data(self, node: Node) -> Iterator[bytes | memoryview]:
        """Its bytes."""
        return self._tree.data(node)


def without_ignored(tree: Tree, dockerfile: str) -> Tree:
    """The tree by the rules of `DOCKERFILE.dockerignore`, else `.dockerignore`. InvalidInput,
    LimitExceeded for rules that cannot be read."""
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        node = tree.get(name)
        if node is not None and node.kind is FILE:
            rules = read(b"".join(map(bytes, tree.data(node))))
            return Filtered(tree, compile_rules(rules)) if rules else tree
    return tree
