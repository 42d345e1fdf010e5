"""Signing keys in PEM: ECDSA P-256 and P-384, Ed25519, RSA.

The hash is SHA-256 for every kind but Ed25519, which has its own, as cosign signs with a key by
default; for P-384 SHA-384 is accepted too. RSA is PKCS #1 v1.5 of 2048 to 8192 bits.
"""

from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from skerry.base.digests import sha256
from skerry.base.errors import InvalidInput, LimitExceeded

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

MAX_PEM: Final = 32 << 10
KINDS: Final = ("ecdsa-p256", "ecdsa-p384", "ed25519", "rsa")
_CURVES: Final = frozenset({"secp256r1", "secp384r1"})
_RSA_BITS: Final = range(2048, 8193)
_SEALED: Final = (b"ENCRYPTED SIGSTORE PRIVATE KEY", b"ENCRYPTED COSIGN PRIVATE KEY")


class Verifying(NamedTuple):
    """A public key with a name that messages can use."""

    name: str
    key: PublicKey

    @property
    def fingerprint(self) -> str:
        """`sha256:<hex>` of the key's SubjectPublicKeyInfo in DER (RFC 5280)."""
        return sha256(
            self.key.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    @property
    def shown(self) -> str:
        """Name and the beginning of the fingerprint."""
        return f"{self.name} ({self.fingerprint[:19]})"

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` over `data` was made with this key."""
        return any(_verifies(self.key, signature, data, each) for each in _hashes(self.key))


def load_public(pem: bytes, name: str = "key") -> Verifying:
    """A public key out of PEM (SubjectPublicKeyInfo); InvalidInput, LimitExceeded."""
    _check_size(pem, name)
    if b"PRIVATE KEY" in pem:
        raise InvalidInput(
            f"{name}: it holds a private key", hint="verify with the public key, the .pub file"
        )
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{name}: not a public key in PEM: {error!s:.120}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise InvalidInput(f"{name}: a key of this kind cannot be used; use {', '.join(KINDS)}")
    _check_strength(key, name)
    return Verifying(name, key)


def load_private(pem: bytes, passphrase: bytes | None = None, name: str = "key") -> PrivateKey:
    """A private key out of PEM; InvalidInput also for a wrong or missing passphrase."""
    _check_size(pem, name)
    if any(mark in pem for mark in _SEALED):
        raise InvalidInput(
            f"{name}: cosign's own encrypted form cannot be read",
            hint="sign with a PKCS #8 key, such as `skerry trust generate-key` makes",
        )
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except TypeError:
        if passphrase is None:
            raise InvalidInput(
                f"{name}: the key is encrypted and no passphrase was given"
            ) from None
        return load_private(pem, None, name)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            f"{name}: not a private key in PEM, or a wrong passphrase: {error!s:.120}"
        ) from None
    if not isinstance(
        key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    ):
        raise InvalidInput(f"{name}: a key of this kind cannot be used; use {', '.join(KINDS)}")
    _check_strength(key.public_key(), name)
    return key


def generate(kind: str = "ecdsa-p256", passphrase: bytes | None = None) -> tuple[bytes, bytes]:
    """A new key pair: private (PKCS #8, encrypted when there is a passphrase) and public PEM."""
    key: PrivateKey
    if kind == "ecdsa-p256":
        key = ec.generate_private_key(ec.SECP256R1())
    elif kind == "ecdsa-p384":
        key = ec.generate_private_key(ec.SECP384R1())
    elif kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    elif kind == "rsa":
        key = rsa.generate_private_key(65537, 3072)
    else:
        raise InvalidInput(f"unknown kind of key {kind!r:.40}", hint=f"one of {', '.join(KINDS)}")
    sealing: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        sealing = serialization.BestAvailableEncryption(passphrase)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealing
    )
    return private, public_pem(key)


def public_pem(key: PrivateKey) -> bytes:
    """The public half, as a PEM file."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def sign(key: PrivateKey, data: bytes) -> bytes:
    """The raw signature (DER for ECDSA)."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def _hashes(key: PublicKey) -> tuple[hashes.HashAlgorithm, ...]:
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1":
        return hashes.SHA256(), hashes.SHA384()
    return (hashes.SHA256(),)


def _verifies(key: PublicKey, signature: bytes, data: bytes, hash_: hashes.HashAlgorithm) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), hash_)
        else:
            key.verify(signature, data, ec.ECDSA(hash_))
    except InvalidSignature:
        return False
    return True


def _check_size(pem: bytes, name: str) -> None:
    if len(pem) > MAX_PEM:
        raise LimitExceeded(f"{name}: larger than {MAX_PEM} bytes")


def _check_strength(key: PublicKey, name: str) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _CURVES:
        raise InvalidInput(f"{name}: curve {key.curve.name} is not used; use P-256 or P-384")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size not in _RSA_BITS:
        raise InvalidInput(f"{name}: RSA of {key.key_size} bits; 2048 to 8192 are accepted")
