"""Detached OpenPGP signatures, verified by gpgv with one keyring and nothing else."""

import base64
import binascii
import os
import subprocess
from typing import Final

from skerry.base.errors import Forbidden, InvalidInput, NotFound, Unsupported

_LIMIT: Final = 1 << 20


def keyring_of(path: str) -> bytes:
    """A public key file, armored or not, as gpgv reads it. NotFound, InvalidInput."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise NotFound(f"read the key {path}: {error.strerror}") from None
    if len(data) > _LIMIT:
        raise InvalidInput(f"the key {path} is larger than {_LIMIT} bytes")
    return dearmor(data) if data.startswith(b"-----BEGIN PGP PUBLIC KEY") else data


def dearmor(data: bytes) -> bytes:
    """The packets inside ASCII armor (RFC 9580, 6.2), whose checksum line is optional."""
    lines = [line.strip() for line in data.splitlines()]
    try:
        start = next(i for i, line in enumerate(lines) if not line)
    except StopIteration:
        raise InvalidInput("key: the armor has no empty line after its headers") from None
    body = []
    for line in lines[start + 1 :]:
        if line.startswith((b"=", b"-----")):
            break
        body.append(line)
    try:
        return base64.b64decode(b"".join(body), validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"key: {error}") from None


def verify(
    file: str, signature: str, keyring: bytes, folder: str, *, fingerprint: str = "", what: str
) -> str:
    """The primary key's fingerprint of a good signature; Forbidden otherwise.

    `folder` is a private one for the keyring. With `fingerprint` only that primary key will do.
    Unsupported when gpgv is missing.
    """
    ring = os.path.join(folder, "keyring.gpg")
    with open(ring, "wb") as out:
        out.write(keyring)
    command = ["gpgv", "--homedir", folder, "--keyring", ring, "--status-fd", "1", signature, file]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        raise Unsupported(
            f"verify the signature of {what}: there is no gpgv", hint="apt-get install gpgv"
        ) from None
    status = done.stdout.decode("utf-8", "replace")
    # VALIDSIG's last word is the primary key's fingerprint (GnuPG, doc/DETAILS).
    valid = [line.split()[-1] for line in status.splitlines() if " VALIDSIG " in line]
    if done.returncode or not valid:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Forbidden(
            f"{what}: its signature is not good: {reason[-1] if reason else 'no reason given'}",
            hint="use another mirror; --key trusts another signing key",
        )
    if fingerprint and fingerprint not in valid:
        raise Forbidden(f"{what}: signed by key {valid[0]}, not by {fingerprint}")
    return valid[0]
