"""`export`, `save`, `load`, `import`: containers and images as tar archives."""

from __future__ import annotations

import os
import sys

from skerry.base.errors import InvalidInput
from skerry.cli.commands.pull import show_progress, split_tag
from skerry.cli.context import Context, out, terminal, write
from skerry.cli.options import Command, Parsed, many, switch, text
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from skerry.sdk.http import Response

_BLOCK = 1 << 18


def export(context: Context, parsed: Parsed) -> int:
    """A container's file system."""
    check_output(parsed)
    target = f"/containers/{quote(parsed.arguments[0])}/export"
    return save_response(context.client.open("GET", target), parsed.text("output"))


def save(context: Context, parsed: Parsed) -> int:
    """Images with their names and layers."""
    check_output(parsed)
    target = "/images/get" + query(
        names=parsed.arguments,
        format=parsed.text("format"),
        compression=parsed.text("compression") or _by_name(parsed.text("output")),
        referrers=True if parsed.on("referrers") else None,
    )
    return save_response(context.client.open("GET", target), parsed.text("output"))


_ENDINGS = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2"}


def _by_name(path: str) -> str:
    """The compression that a file's name promises; the engine says which it cannot write."""
    return _ENDINGS.get(os.path.splitext(path)[1], "")


def check_output(parsed: Parsed) -> None:
    """InvalidInput when the archive would go to a terminal or to no file."""
    if not parsed.text("output") and terminal(1):
        raise InvalidInput(
            "cowardly refusing to save to a terminal",
            hint="use the -o flag or redirect: skerry … -o FILE",
        )
    check_file(parsed.text("output"))


def check_file(path: str) -> None:
    """InvalidInput when a file cannot be made there: before anything is asked of the engine."""
    folder = os.path.dirname(path) or "."
    if path and path != "-" and (os.path.isdir(path) or not os.path.isdir(folder)):
        why = "it is a folder" if os.path.isdir(path) else f"there is no folder {folder}"
        raise InvalidInput(f"cannot write {path}: {why}")


def save_response(response: Response, path: str) -> int:
    """A body as `save_chunks`; the connection is closed."""
    try:
        save_chunks(response.chunks(), path)
    finally:
        response.connection.close()
    return 0


def save_chunks(chunks: Iterator[bytes], path: str) -> None:
    """To `path` at once when complete: a broken transfer leaves no file that looks whole."""
    try:
        if not path or path == "-":
            for chunk in chunks:
                write(1, chunk)
            return
        if os.path.exists(path) and not os.path.isfile(path):
            # A device or a pipe takes the bytes; a rename would put a file in its place.
            with open(path, "wb") as file:
                file.writelines(chunks)
            return
        fresh = f"{path}.{os.getpid()}.part"
        try:
            with open(fresh, "xb") as file:
                file.writelines(chunks)
            os.rename(fresh, path)
        except BaseException:
            if os.path.exists(fresh):
                os.unlink(fresh)
            raise
    except OSError as error:
        raise InvalidInput(f"cannot write {path or 'the output'}: {error.strerror}") from None


def load(context: Context, parsed: Parsed) -> int:
    """Images from an archive of `save`."""
    path = parsed.text("input")
    if not path and terminal(0):
        raise InvalidInput("requested load from stdin, but stdin is a terminal", hint="use --input")
    quiet = parsed.on("quiet") or not terminal(1)
    target = "/images/load" + query(quiet=True if quiet else None, tag=parsed.text("tag"))
    headers = {"Content-Type": "application/x-tar"}
    response = context.client.open("POST", target, read_file(path), headers)
    show_progress(response, quiet=False, stream=1)
    return 0


def import_(context: Context, parsed: Parsed) -> int:
    """An image from a tar archive of a file system."""
    source = parsed.arguments[0]
    name, tag = split_tag(parsed.arguments[1]) if len(parsed.arguments) > 1 else ("", "")
    fetched = "://" in source
    target = "/images/create" + query(
        fromSrc=source if fetched else "-",
        repo=name,
        tag=tag if name else "",
        message=parsed.text("message"),
        changes=parsed.many("change") or None,
        platform=parsed.text("platform"),
    )
    body = None if fetched else read_file("" if source == "-" else source)
    headers = {"Content-Type": "application/x-tar"}
    response = context.client.open("POST", target, body, headers)
    try:
        for message in response.json_lines():
            if message.get("error"):
                raise InvalidInput(str(message["error"]))
            if str(message.get("status", "")).startswith("sha256:"):
                out(message["status"])
    finally:
        response.connection.close()
    return 0


def read_file(path: str) -> Iterator[bytes]:
    """A file's blocks, standard input's when `path` is empty or `-`; opened at once."""
    try:
        file = open(path, "rb") if path and path != "-" else None  # noqa: SIM115
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None

    def blocks() -> Iterator[bytes]:
        fd = file.fileno() if file else sys.__stdin__.fileno() if sys.__stdin__ else 0
        try:
            while data := os.read(fd, _BLOCK):
                yield data
        finally:
            if file:
                file.close()

    return blocks()


def send_file(context: Context, method: str, target: str, source: str) -> Any:
    """A tar archive from a file or, with `-`, standard input; the answer's JSON."""
    headers = {"Content-Type": "application/x-tar"}
    body = read_file("" if source == "-" else source)
    response = context.client.open(method, target, body, headers)
    try:
        return response.json()
    finally:
        response.connection.close()


OUTPUT = text("output", "Write to a file instead of standard output", "FILE", "o", "files")
COMMANDS = {
    "export": Command(
        export,
        "Write a container's file system as a tar archive",
        "CONTAINER",
        (OUTPUT,),
        least=1,
        most=1,
        complete="containers",
    ),
    "save": Command(
        save,
        "Write images as a tar archive",
        "IMAGE [IMAGE...]",
        (
            OUTPUT,
            text("format", "Write docker-archive (default), oci-archive, lxc or rootfs", "FORMAT"),
            text("compression", "Compress: none, gzip or zstd; by default as FILE ends", "KIND"),
            switch("referrers", "Signatures and bills of materials too; for oci-archive"),
        ),
        least=1,
        complete="images",
    ),
    "load": Command(
        load,
        "Read images from an archive: docker, OCI, LXC, Incus, ACI",
        "",
        (
            text("input", "Read from a file instead of standard input", "FILE", "i", "files"),
            switch("quiet", "Show no progress", "q"),
            text("tag", "Name the image of an archive that holds one", "NAME[:TAG]", "t"),
        ),
        most=0,
    ),
    "import": Command(
        import_,
        "Make an image from a tar archive of a file system",
        "FILE|- [NAME[:TAG]]",
        (
            many("change", "Apply a Dockerfile instruction: 'CMD [\"sh\"]'", "INSTRUCTION", "c"),
            text("message", "What was done", "TEXT", "m"),
            text("platform", "Platform of the image: linux/amd64", "OS/ARCH"),
        ),
        least=1,
        most=2,
        complete="files",
    ),
}
