"""Go's filepath.Match and what COPY finds with it: the rules of a Dockerfile's wildcards.

`*` and `?` do not match a slash, `[a-z]` and `[^a-z]` are classes, a backslash takes the next
character as it is (https://pkg.go.dev/path/filepath#Match).
"""

import re
from functools import lru_cache

from skerry.base.errors import InvalidInput
from skerry.build.tree import Tree, resolve, walk
from skerry.store.tar_reader import DIRECTORY


def has_wildcards(path: str) -> bool:
    """Whether a path is a pattern."""
    return any(character in path for character in "*?[")


def unescaped(path: str) -> str:
    """A path without wildcards as the name that it stands for."""
    return re.sub(r"\\(.)", r"\1", path, flags=re.DOTALL)


@lru_cache(512)
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern for one component. InvalidInput when it is malformed."""
    out, at = [], 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            while pattern[at : at + 1] == "*":
                at += 1
            out.append("[^/]*")
        elif character == "?":
            out.append("[^/]")
        elif character == "[":
            text, at = _class(pattern, at)
            out.append(text)
        elif character == "\\":
            if at == len(pattern):
                raise _malformed(pattern)
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(character))
    return re.compile("".join(out), re.DOTALL)


def _class(pattern: str, at: int) -> tuple[str, int]:
    """The class that starts behind its bracket, as a regular expression, and where it ends."""
    negated = pattern[at : at + 1] == "^"
    at += negated
    ranges: list[str] = []
    while True:
        if pattern[at : at + 1] == "]" and ranges:
            break
        low, at = _character(pattern, at)
        high = low
        if pattern[at : at + 1] == "-":
            high, at = _character(pattern, at + 1)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")
    inner = "".join(ranges)
    if not inner:
        return ("[^/]" if negated else r"(?!)"), at + 1
    return (f"(?!/)[^{inner}]" if negated else f"(?!/)[{inner}]"), at + 1


def _character(pattern: str, at: int) -> tuple[str, int]:
    if at >= len(pattern) or pattern[at] in "-]":
        raise _malformed(pattern)
    if pattern[at] == "\\":
        at += 1
        if at >= len(pattern):
            raise _malformed(pattern)
    if at + 1 >= len(pattern):
        raise _malformed(pattern)
    return pattern[at], at + 1


def _malformed(pattern: str) -> InvalidInput:
    return InvalidInput(f"syntax error in pattern {pattern!r:.200}")


def match(pattern: str, name: str) -> bool:
    """filepath.Match over whole paths."""
    return compiled(pattern).fullmatch(name) is not None


def find(tree: Tree, path: str, *, deep: bool = False) -> list[str]:
    """The paths that a source of COPY means, links on the way followed, those at the end not yet.

    In the order of their names; empty when nothing is there. With `deep` (--parents) `**` is any
    number of directories, none as well.
    """
    found = [""]
    for part in path.split("/"):
        if part in ("", "."):
            continue
        following: list[str] = []
        for above in found:
            if not has_wildcards(part):
                following.append(f"{above}/{unescaped(part)}".lstrip("/"))
                continue
            node = resolve(tree, above)
            if node is None or node.kind is not DIRECTORY:
                continue
            if deep and part == "**":
                following += [each.path for each in walk(tree, node) if each.kind is DIRECTORY]
                continue
            expression = compiled(part)
            following += [
                f"{above}/{name}".lstrip("/")
                for name in tree.names(node.path)
                if expression.fullmatch(name)
            ]
        found = list(dict.fromkeys(following))
    return [each for each in found if resolve(tree, each) is not None]
