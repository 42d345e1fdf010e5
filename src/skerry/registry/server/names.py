"""Repository names, tags and digests: the specification's grammar, before they are paths."""

import re
from typing import Final

from skerry.base.digests import parse_digest
from skerry.base.errors import InvalidInput
from skerry.registry.server.refusals import Refusal

MAX_NAME: Final = 255
_NAME = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_UPLOAD = re.compile(r"[0-9a-f]{32}")


def repository(text: str) -> str:
    """`text` when it is a repository name. NAME_INVALID otherwise."""
    if len(text) > MAX_NAME or not _NAME.fullmatch(text):
        raise Refusal("NAME_INVALID", f"invalid repository name: {text!r:.80}")
    return text


def tag(text: str) -> str:
    """`text` when it is a tag. TAG_INVALID otherwise."""
    if not _TAG.fullmatch(text):
        raise Refusal("TAG_INVALID", f"invalid tag: {text!r:.80}")
    return text


def digest(text: str) -> str:
    """`text` when it is a sha256 or sha512 digest. DIGEST_INVALID otherwise."""
    try:
        return parse_digest(text)
    except InvalidInput:
        raise Refusal("DIGEST_INVALID", f"invalid digest: {text!r:.80}") from None


def is_digest(text: str) -> bool:
    """Whether a manifest's reference is meant as a digest: no tag holds a colon."""
    return ":" in text


def upload_id(text: str) -> str:
    """`text` when this server could have given it out. BLOB_UPLOAD_UNKNOWN otherwise."""
    if not _UPLOAD.fullmatch(text):
        raise Refusal("BLOB_UPLOAD_UNKNOWN", f"no such upload: {text!r:.80}")
    return text


def path_of(digest_text: str) -> str:
    """`sha256/<hex>`, for a digest that came through `digest`."""
    return digest_text.replace(":", "/", 1)


def ordered(names: list[str]) -> list[str]:
    """Lexical order as the specification has it: without regard to case first."""
    return sorted(names, key=lambda name: (name.lower(), name))


def after(names: list[str], last: str) -> list[str]:
    """What follows `last` in ordered `names`; `last` itself need not be there (any more)."""
    mark = (last.lower(), last)
    return [name for name in names if (name.lower(), name) > mark] if last else names
