"""Keys: every kind signs and verifies, and what is no such key is refused."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError
from skerry.trust import keys, signatures


@pytest.mark.parametrize("kind", keys.KINDS)
@pytest.mark.parametrize("secret", [None, b"a passphrase"])
def test_what_a_generated_key_signs_its_public_half_verifies(
    kind: str, secret: bytes | None
) -> None:
    private, public = keys.generate(kind, secret)
    value = keys.sign(keys.load_private(private, secret), b"data")
    verifying = keys.load_public(public, "me")
    assert verifying.verifies(value, b"data")
    assert not verifying.verifies(value, b"datA")
    assert not verifying.verifies(value[:-1], b"data")
    other = keys.load_public(keys.generate(kind)[1])
    assert not other.verifies(value, b"data")
    assert verifying.fingerprint.startswith("sha256:") and "me (sha256:" in verifying.shown
    assert verifying.fingerprint != other.fingerprint


def test_passphrases() -> None:
    private, _ = keys.generate(passphrase=b"right")
    assert b"ENCRYPTED" in private
    with pytest.raises(InvalidInput, match="wrong passphrase"):
        keys.load_private(private, b"wrong")
    with pytest.raises(InvalidInput, match="no passphrase was given"):
        keys.load_private(private)
    plain, public = keys.generate()
    assert keys.public_pem(keys.load_private(plain, b"not needed")) == public


def test_a_private_key_is_not_taken_for_a_public_one() -> None:
    with pytest.raises(InvalidInput, match="private key"):
        keys.load_public(keys.generate()[0])


def test_weak_and_other_keys_are_refused() -> None:
    def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
        return key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    with pytest.raises(InvalidInput, match="1024 bits"):
        keys.load_public(pem(rsa.generate_private_key(65537, 1024)))
    with pytest.raises(InvalidInput, match="secp521r1"):
        keys.load_public(pem(ec.generate_private_key(ec.SECP521R1())))
    with pytest.raises(InvalidInput, match="PKCS #8"):
        keys.load_private(b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
    with pytest.raises(InvalidInput, match="unknown kind"):
        keys.generate("dsa")
    with pytest.raises(LimitExceeded):
        keys.load_public(b" " * (keys.MAX_PEM + 1))


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    wrapped = b"-----BEGIN PUBLIC KEY-----\n" + data + b"\n-----END PUBLIC KEY-----\n"
    for each in (data, wrapped, wrapped.replace(b"PUBLIC", b"PRIVATE")):
        for load in (keys.load_public, keys.load_private):
            with pytest.raises(SkerryError):
                load(each)


@given(st.text(max_size=40))
def test_signatures_are_strict_base64(text: str) -> None:
    try:
        assert isinstance(signatures.decode_signature(text), bytes)
    except InvalidInput:
        return


PUBLIC = keys.load_public(keys.generate()[1])


@given(st.binary(max_size=80), st.binary(max_size=20))
def test_no_bytes_are_a_signature(value: bytes, data: bytes) -> None:
    assert not PUBLIC.verifies(value, data)
