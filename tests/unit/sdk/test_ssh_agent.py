"""Keys as an SSH agent: what it tells, and that its signatures are good."""

import socket
import threading
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.sdk.ssh_agent import KeyAgent

RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": RSA,
    "nistp256": ec.generate_private_key(ec.SECP256R1()),
    "nistp521": ec.generate_private_key(ec.SECP521R1()),
}
DATA = b"what is to be signed"
OPENSSH = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH)


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def written(folder: Path, key: Any, *, password: bytes = b"") -> str:
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        lock = serialization.BestAvailableEncryption(password)
    (folder / "key").write_bytes(key.private_bytes(*OPENSSH, lock))
    return str(folder / "key")


def public(key: Any) -> bytes:
    form = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return b64decode(key.public_key().public_bytes(*form).split()[1])


def signed(agent: KeyAgent, key: Any, flags: int) -> list[bytes]:
    """The name of the form, and the signature."""
    request = b"\x0d" + string(public(key)) + string(DATA) + flags.to_bytes(4, "big")
    answer = agent.answer(request)
    assert answer[:1] == b"\x0e"
    return strings(strings(answer[1:])[0])


def test_keys_are_told_with_their_files(tmp_path: Path) -> None:
    path = written(tmp_path, KEYS["ed25519"])
    answer = KeyAgent([path]).answer(b"\x0b")
    assert answer[:5] == b"\x0c\x00\x00\x00\x01"
    assert strings(answer[5:]) == [public(KEYS["ed25519"]), path.encode()]


def test_ed25519(tmp_path: Path) -> None:
    key = KEYS["ed25519"]
    name, signature = signed(KeyAgent([written(tmp_path, key)]), key, 0)
    assert name == b"ssh-ed25519"
    key.public_key().verify(signature, DATA)


@pytest.mark.parametrize(
    ("flags", "form", "digest"),
    [
        (0, b"ssh-rsa", hashes.SHA1()),
        (2, b"rsa-sha2-256", hashes.SHA256()),
        (4, b"rsa-sha2-512", hashes.SHA512()),
        (6, b"rsa-sha2-512", hashes.SHA512()),
    ],
    ids=["old", "256", "512", "both"],
)
def test_rsa(tmp_path: Path, flags: int, form: bytes, digest: Any) -> None:
    name, signature = signed(KeyAgent([written(tmp_path, RSA)]), RSA, flags)
    assert name == form
    RSA.public_key().verify(signature, DATA, padding.PKCS1v15(), digest)


@pytest.mark.parametrize(
    ("curve", "digest"), [("nistp256", hashes.SHA256()), ("nistp521", hashes.SHA512())],
    ids=["256", "521"],
)  # fmt: skip
def test_ecdsa(tmp_path: Path, curve: str, digest: Any) -> None:
    key = KEYS[curve]
    name, signature = signed(KeyAgent([written(tmp_path, key)]), key, 0)
    assert name == f"ecdsa-sha2-{curve}".encode()
    numbers = [int.from_bytes(each, "big", signed=True) for each in strings(signature)]
    assert min(numbers) > 0
    key.public_key().verify(encode_dss_signature(*numbers), DATA, ec.ECDSA(digest))


def test_over_a_connection(tmp_path: Path) -> None:
    agent = KeyAgent([written(tmp_path, KEYS["ed25519"])])
    here, there = socket.socketpair()
    serving = threading.Thread(target=agent.serve, args=(there,))
    serving.start()
    with here, here.makefile("rb") as answers:
        for request in (b"\x0b", b"\x1bsession-bind@openssh.com", b"\x0d"):
            here.sendall(string(request))
            size = int.from_bytes(answers.read(4), "big")
            assert answers.read(size) == agent.answer(request)
        assert agent.answer(b"\x13") == b"\x05"
        here.sendall(b"\xff" * 8)
        assert answers.read() == b""
    serving.join()


@given(st.binary(max_size=200))
def test_any_request_has_an_answer(request: bytes) -> None:
    agent = KeyAgent([])
    assert agent.answer(request)[:1] in (b"\x05", b"\x0c")


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has a passphrase") as locked:
        KeyAgent([written(tmp_path, KEYS["ed25519"], password=b"x")])
    assert "ssh-add" in locked.value.hint
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(InvalidInput, match="no SSH private key"):
        KeyAgent([str(tmp_path / "junk")])
    with pytest.raises(InvalidInput, match="No such file"):
        KeyAgent([str(tmp_path / "none")])
