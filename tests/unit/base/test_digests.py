"""Digests: the form, and streams that are checked as they pass."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.digests import Verifier, hex_of, parse_digest, sha256
from skerry.base.errors import DigestMismatch, InvalidInput


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "md5:" + "a" * 32,
        "sha256:../../../../etc/passwd",
        None,
        5,
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a digest"):
        parse_digest(text)


def test_forms() -> None:
    assert parse_digest("sha512:" + "0" * 128)
    assert hex_of(sha256(b"x")) == hashlib.sha256(b"x").hexdigest()


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_pieces_make_the_whole(pieces: list[bytes]) -> None:
    seen = Verifier()
    for piece in pieces:
        seen.update(piece)
    whole = b"".join(pieces)
    assert seen.digest == sha256(whole)
    seen.check(sha256(whole), len(whole))


def test_mismatches_say_what_is_wrong() -> None:
    seen = Verifier()
    seen.update(b"abc")
    with pytest.raises(DigestMismatch, match="layer: 3 bytes, the descriptor says 4"):
        seen.check(sha256(b"abc"), 4, what="layer")
    with pytest.raises(DigestMismatch, match="digest is sha256:ba7816bf"):
        seen.check(sha256(b"abd"), 3)
