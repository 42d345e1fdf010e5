"""A TLS server as an image, and a client that sees what is said on the line."""

import io
import shutil
import socket
import ssl
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

from skerry.machine.kit import shared_libraries

PORT = 4433
SERVE = f"openssl s_server -accept {PORT} -key /key.pem -cert /cert.pem -www >/dev/null 2>&1"
SUPERVISED = f"while :; do {SERVE}; done"
"""Whoever kills the server gets another one."""
LISTENS = f"grep -q ':{PORT:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6"
RENEW = (
    "old=$(pidof openssl); kill $old; while [ -e /proc/$old ]; do sleep 0.05; done; "
    f"until {LISTENS}; do sleep 0.05; done"
)
_PATIENCE = 60


def image(folder: Path) -> bytes:
    """A root file system with openssl(1), a shell and a certificate; `folder` is for work."""
    openssl = shutil.which("openssl")
    assert openssl is not None
    key, certificate = folder / "key.pem", folder / "cert.pem"
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subprocess.run(
        [openssl, "req", "-x509", *kind, "-subj", "/CN=tls", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", dereference=True) as tar:
        for path in (openssl, *shared_libraries([openssl])):
            tar.add(path, path.lstrip("/"))
        tar.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "kill", "pidof", "sleep", "grep", "cat"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for path in (key, certificate):
            tar.add(path, path.name)
    return out.getvalue()


class Seen(NamedTuple):
    """One connection: the server's random number and its part of the key exchange, whether it
    resumed a session, and the session that it gave."""

    random: bytes
    share: bytes
    resumed: bool
    session: ssl.SSLSession | None


class Client:
    """Connections with one store of sessions."""

    def __init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3

    def connect(self, port: int, session: ssl.SSLSession | None = None) -> Seen:
        """Shake hands, read a page (the tickets come before it), leave."""
        heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
        line = self._context.wrap_bio(heard, said, session=session)
        words = b""
        with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as sock:
            steps = [line.do_handshake, lambda: line.write(b"GET / HTTP/1.0\r\n\r\n"), line.read]
            while steps:
                try:
                    steps[0]()
                    del steps[0]
                    more = False
                except ssl.SSLWantReadError:
                    more = True
                sock.sendall(said.read())
                if more:
                    data = sock.recv(65536)
                    assert data, "the server hangs up"
                    words += data
                    heard.write(data)
        # RFC 8446, 4.1.3: record (5 bytes), handshake (4), version (2), random (32); the key share
        # (X25519, 32 bytes) comes last.
        hello = words[5 : 5 + int.from_bytes(words[3:5])]
        return Seen(hello[6:38], hello[-32:], bool(line.session_reused), line.session)
