"""An SSH agent over key files, for `--ssh ID=FILE`: it tells its keys and signs with them.

The agent protocol (draft-ietf-sshm-ssh-agent); all other requests are answered with a failure. The
keys stay in this process. Imported only where a file is named: `cryptography` takes a while.
"""

from base64 import b64decode
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import socket
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from skerry.base.errors import InvalidInput

MAX_KEY: Final = 64 << 10
MAX_REQUEST: Final = 256 << 10
"""Bytes, as with OpenSSH."""
_FAILURE: Final = b"\x05"
_LIST, _LISTED = 11, b"\x0c"
_SIGN, _SIGNED = 13, b"\x0e"
_RSA: Final[tuple[tuple[int, bytes, hashes.HashAlgorithm], ...]] = (
    (4, b"rsa-sha2-512", hashes.SHA512()),
    (2, b"rsa-sha2-256", hashes.SHA256()),
)
"""By flag of a request (RFC 8332)."""
_CURVES: Final[dict[int, hashes.HashAlgorithm]] = {
    256: hashes.SHA256(),
    384: hashes.SHA384(),
    521: hashes.SHA512(),
}
"""By size of the key (RFC 5656)."""

Sign = Callable[[bytes, int], bytes]
"""Data and flags to the two strings of a signature."""


class KeyAgent:
    """Serves connections; several at once, each in a thread of its own."""

    def __init__(self, files: Sequence[str]) -> None:
        """InvalidInput for a file that is no private key, or has a passphrase."""
        self._keys: dict[bytes, tuple[bytes, Sign]] = {}
        for path in files:
            blob, sign = _load(path)
            self._keys[blob] = (path.encode("utf-8", "surrogateescape"), sign)

    def serve(self, connection: socket) -> None:
        """Answer until the other side ends; the connection is closed."""
        with suppress(OSError), connection, connection.makefile("rb") as requests:
            while len(head := requests.read(4)) == 4:
                size = int.from_bytes(head, "big")
                if not 0 < size <= MAX_REQUEST:
                    return
                request = requests.read(size)
                if len(request) < size:
                    return
                connection.sendall(_string(self.answer(request)))

    def answer(self, request: bytes) -> bytes:
        """One request without its length to its answer."""
        if request[:1] == bytes([_LIST]):
            listed = [_string(blob) + _string(name) for blob, (name, _) in self._keys.items()]
            return _LISTED + len(listed).to_bytes(4, "big") + b"".join(listed)
        if request[:1] == bytes([_SIGN]):
            blob, rest = _taken(request[1:])
            data, flags = _taken(rest)
            if blob in self._keys:
                _, sign = self._keys[blob]
                return _SIGNED + _string(sign(data, int.from_bytes(flags[:4], "big")))
        return _FAILURE


def _load(path: str) -> tuple[bytes, Sign]:
    """The public key as in a `.pub` file, and what signs."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_KEY)
    except OSError as error:
        raise InvalidInput(f"cannot read the key {path}: {error.strerror}") from None
    try:
        if b"BEGIN OPENSSH PRIVATE KEY" in data:
            key = serialization.load_ssh_private_key(data, None)
        else:
            key = serialization.load_pem_private_key(data, None)  # type: ignore[assignment]
    except TypeError:
        raise InvalidInput(
            f"the key {path} has a passphrase",
            hint="add it to an agent: eval $(ssh-agent); ssh-add FILE",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidInput(f"{path} is no SSH private key") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        sign = _ed25519(key)
    elif isinstance(key, rsa.RSAPrivateKey):
        sign = _rsa(key)
    elif isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size in _CURVES:
        sign = _ecdsa(key)
    else:
        raise InvalidInput(f"{path}: keys of this kind are not known", hint="use ed25519")
    form = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return b64decode(key.public_key().public_bytes(*form).split()[1]), sign


def _ed25519(key: ed25519.Ed25519PrivateKey) -> Sign:
    return lambda data, _flags: _string(b"ssh-ed25519") + _string(key.sign(data))


def _rsa(key: rsa.RSAPrivateKey) -> Sign:
    def sign(data: bytes, flags: int) -> bytes:
        for flag, name, digest in _RSA:
            if flags & flag:
                return _string(name) + _string(key.sign(data, padding.PKCS1v15(), digest))
        # Without a flag the first form is asked for, which old servers know alone.
        old = hashes.SHA1()
        return _string(b"ssh-rsa") + _string(key.sign(data, padding.PKCS1v15(), old))

    return sign


def _ecdsa(key: ec.EllipticCurvePrivateKey) -> Sign:
    size = key.curve.key_size

    def sign(data: bytes, _flags: int) -> bytes:
        numbers = decode_dss_signature(key.sign(data, ec.ECDSA(_CURVES[size])))
        name = f"ecdsa-sha2-nistp{size}".encode()
        return _string(name) + _string(b"".join(map(_number, numbers)))

    return sign


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _number(value: int) -> bytes:
    """A positive mpint (RFC 4251, section 5)."""
    return _string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _taken(data: bytes) -> tuple[bytes, bytes]:
    """The first string, and what is behind it."""
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]
