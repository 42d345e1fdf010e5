"""What a stage does, after expansion: plain data that can be printed and compared.

One instruction makes one operation. `text` is what the image's history says of it, in BuildKit's
words.
"""

from typing import Any, NamedTuple


class Mount(NamedTuple):
    """One `RUN --mount`. Fields that the kind does not know are empty."""

    kind: str
    """bind, cache, tmpfs, secret or ssh."""
    target: str
    source: str = ""
    from_: str = ""
    id: str = ""
    sharing: str = "shared"
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size: int = 0
    required: bool = False
    read_only: bool = True
    env: str = ""
    """Name of the variable that a secret goes to, besides or instead of a file."""


class Run(NamedTuple):
    """RUN. `variables` are the build arguments that it sees, `NAME=value`."""

    text: str
    args: tuple[str, ...]
    variables: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    """Further variables (proxies) that neither the cache nor the history knows."""
    mounts: tuple[Mount, ...] = ()
    network: str = "default"
    insecure: bool = False
    files: tuple[tuple[str, bytes], ...] = ()
    """Here-documents that are mounted as files: path, content."""


class Copy(NamedTuple):
    """COPY or ADD. `target` is absolute; it keeps its slash at the end."""

    text: str
    sources: tuple[str, ...]
    target: str
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    files: tuple[tuple[str, bytes], ...] = ()
    """Here-documents as sources: name, content."""
    add: bool = False
    unpack: bool | None = None
    keep_git_dir: bool | None = None


class Workdir(NamedTuple):
    """WORKDIR; the directory is made when it is missing."""

    text: str
    path: str


class Configure(NamedTuple):
    """Any instruction that concerns the configuration only: what the configuration is after it."""

    text: str
    config: dict[str, Any]


Operation = Run | Copy | Workdir | Configure
