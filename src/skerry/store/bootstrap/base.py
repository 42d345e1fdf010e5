"""What base images have in common: a tree becomes one layer, with config, history and labels."""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from skerry.base.references import parse_reference
from skerry.store.commit import Step, add_layer, store_layer
from skerry.store.pack import PackOptions, pack
from skerry.store.trees import DIRECTORY

if TYPE_CHECKING:
    from skerry.store.images import Images

Report = Callable[[str | dict[str, Any]], None]

PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tell(progress: Report | None, line: str) -> None:
    """Report a line when somebody listens."""
    if progress:
        progress(line)


def make_image(
    images: "Images",
    tree: str,
    *,
    tag: str,
    created: int,
    created_by: str,
    command: list[str],
    labels: Mapping[str, str],
) -> str:
    """One layer of everything below `tree`; the image's id.

    No file is newer than `created` (seconds since the epoch), and every mtime is in whole seconds,
    so that the same tree made twice is the same image. The caller holds a lease.
    """
    parse_reference(tag)
    directory = os.open(tree, DIRECTORY)
    try:
        options = PackOptions(prefix="./", top=True, latest=created, whole_seconds=True)
        layer = store_layer(images, pack(directory, options))
    finally:
        os.close(directory)
    config = {"Env": [PATH], "Cmd": command, "WorkingDir": "/", "Labels": dict(labels)}
    step = Step(created_by=created_by, comment="skerry bootstrap", created=created)
    return add_layer(images, None, layer, config, step, [tag]).id


def write_file(tree: str, path: str, text: str, mode: int = 0o644) -> None:
    """Make a file below a tree that is ours."""
    full = os.path.join(tree, path.lstrip("/"))
    with open(full, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(full, mode)


def make_folder(tree: str, path: str, mode: int = 0o755) -> None:
    """Make a folder below a tree that is ours."""
    full = os.path.join(tree, path.lstrip("/"))
    os.makedirs(full, exist_ok=True)
    os.chmod(full, mode)
