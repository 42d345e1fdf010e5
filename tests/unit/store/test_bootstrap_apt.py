"""Which mirrors the host uses, read from apt's two formats."""

import pytest

from skerry.base.errors import InvalidInput
from skerry.store.bootstrap import alpine_key, signature
from skerry.store.bootstrap.apt import choose, host_sources, parse_deb822, parse_one_line

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example.org/debian
 https://second.example.org/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example.org/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.example.org/debian
Suites: bookworm

Types: deb-src
URIs: http://source.example.org/debian
Suites: bookworm
"""


def test_deb822() -> None:
    found = parse_deb822(DEB822)
    assert found == [
        ("http://mirror.example.org/debian", "bookworm"),
        ("http://mirror.example.org/debian", "bookworm-updates"),
        ("https://second.example.org/debian", "bookworm"),
        ("https://second.example.org/debian", "bookworm-updates"),
        ("http://mirror.example.org/debian-security", "bookworm-security"),
    ]


def test_one_line() -> None:
    text = (
        "deb [signed-by=/k] https://m.example.org/debian trixie main contrib\n"
        "# deb http://off.example.org/debian trixie main\n"
        "deb-src http://s.example.org/debian trixie main\n"
        "deb cdrom:[x]/ trixie main\n"
        "  deb http://m.example.org/debian-security trixie-security main\n"
    )
    assert parse_one_line(text) == [
        ("https://m.example.org/debian", "trixie"),
        ("http://m.example.org/debian-security", "trixie-security"),
    ]


def test_the_image_names_debians_own_addresses() -> None:
    sources = choose(parse_deb822(DEB822), "trixie", rolling=False)
    assert sources.lines() == [
        "deb http://mirror.example.org/debian trixie main",
        "deb http://mirror.example.org/debian trixie-updates main",
        "deb http://mirror.example.org/debian-security trixie-security main",
    ]
    assert all("deb.debian.org" in line for line in sources.public())
    assert len(sources.public()) == 3


def test_rolling_suites_have_one_line() -> None:
    assert len(choose([], "sid", rolling=True).lines()) == 1


def test_foreign_repositories_are_no_debian_mirror() -> None:
    sources = choose([("https://other.example.org/packages", "stable")], "bookworm", rolling=False)
    assert "deb.debian.org" in sources.main


def test_this_host() -> None:
    assert host_sources("bookworm", rolling=False).main.startswith("http")


def test_armor() -> None:
    packets = signature.dearmor(b"\n" + alpine_key.KEY.encode())
    armored = (
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: x\n\n"
        + alpine_key.KEY.encode()
        + b"=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    )
    assert signature.dearmor(armored) == packets
    for broken in (b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"\n!!!\n"):
        with pytest.raises(InvalidInput, match="key"):
            signature.dearmor(broken)


def test_the_pinned_key_is_what_its_fingerprint_says() -> None:
    """RFC 4880, 12.2: SHA-1 of 0x99, the length in two bytes, and the key packet's body."""
    import hashlib

    packets = signature.dearmor(b"\n" + alpine_key.KEY.encode())
    assert packets[0] == 0x99
    length = int.from_bytes(packets[1:3], "big")
    body = packets[3 : 3 + length]
    found = hashlib.sha1(b"\x99" + packets[1:3] + body).hexdigest().upper()
    assert found == alpine_key.FINGERPRINT
