"""What makes one system a particular one: machine id, SSH host keys, the stored random seed.

A fork starts with all of its original's files; these have to be its own before anything reads them.
machine-id(5), sshd(8), systemd-random-seed.service(8).
"""

import os
import re
from collections.abc import Iterable
from typing import Final

from skerry.base.errors import KernelFault
from skerry.kernel import descriptors

FORK_OF: Final = "org.skerry.fork-of"
"""Label of a fork: the id of its original."""
MACHINE_IDS: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")
RANDOM_SEEDS: Final = ("/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed")
SSH_FOLDER: Final = "/etc/ssh"
ALL: Final = (
    *MACHINE_IDS,
    *RANDOM_SEEDS,
    *(f"{SSH_FOLDER}/ssh_host_{kind}_key" for kind in ("ed25519", "ecdsa", "rsa")),
)
"""For `contents`, where nobody can look which of them there are."""

_KEY_NAME: Final = re.compile(r"ssh_host_(ed25519|ecdsa|rsa)_key")
_SEED_BYTES: Final = 512


def renew(root: int) -> list[str]:
    """Replace what of it the tree below an open root has; the paths that were replaced.

    Files keep owner and mode. Symbolic links are resolved inside the root.
    """
    fresh: dict[str, bytes] = {path: os.urandom(_SEED_BYTES) for path in RANDOM_SEEDS}
    fresh |= {path: os.urandom(16).hex().encode() + b"\n" for path in MACHINE_IDS}
    changed = [path for path, data in fresh.items() if _rewrite(root, path, data)]
    return changed + _renew_keys(root)


def contents(paths: Iterable[str]) -> dict[str, str]:
    """Fresh hexadecimal contents for those of these files that are known here."""
    wanted = set(paths)
    machine_id = os.urandom(16).hex().encode() + b"\n"
    fresh: dict[str, bytes] = {path: machine_id for path in MACHINE_IDS if path in wanted}
    fresh |= {path: os.urandom(_SEED_BYTES) for path in RANDOM_SEEDS if path in wanted}
    for path in wanted:
        folder, _, name = path.rpartition("/")
        if folder == SSH_FOLDER and (match := _KEY_NAME.fullmatch(name)):
            fresh[path], fresh[f"{path}.pub"] = new_host_key(match[1])
    return {path: data.hex() for path, data in fresh.items()}


def _rewrite(root: int, path: str, content: bytes) -> bool:
    """Replace a regular file that has something in it."""
    try:
        fd = descriptors.open_in_root(root, path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except KernelFault:
        return False
    try:
        if not os.fstat(fd).st_size:
            return False
        os.ftruncate(fd, 0)
        os.write(fd, content)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _renew_keys(root: int) -> list[str]:
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        folder = descriptors.open_in_root(root, SSH_FOLDER, flags)
    except KernelFault:
        return []
    try:
        names = sorted(filter(_KEY_NAME.fullmatch, os.listdir(folder)))
    finally:
        os.close(folder)
    changed = []
    for name in names:
        match = _KEY_NAME.fullmatch(name)
        private, public = new_host_key(match[1]) if match else (b"", b"")
        path = f"{SSH_FOLDER}/{name}"
        if _rewrite(root, path, private):
            _rewrite(root, f"{path}.pub", public)
            changed.append(path)
    return changed


def new_host_key(kind: str) -> tuple[bytes, bytes]:
    """A fresh key pair as ssh-keygen(1) writes it; `kind` is ed25519, ecdsa or rsa."""
    # Only here: who forks nothing with an SSH server need not load it.
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    elif kind == "ecdsa":
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        key = rsa.generate_private_key(65537, 3072)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private, public + b" skerry-fork\n"
