"""`bootstrap`: make a base image without a registry."""

from __future__ import annotations

from skerry.cli.options import Command


def knows(image: str) -> bool:
    """Whether `skerry bootstrap` can make an image of this name."""
    name, _, tag = image.partition(":")
    return (name == "busybox" and tag in ("", "latest")) or (
        name in ("debian", "alpine") and "/" not in tag
    )


COMMANDS: dict[str, Command] = {}
