"""Package databases: what is installed, by which name, and that no bytes break the readers."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import LimitExceeded
from skerry.trust import packages
from skerry.trust.packages import Distribution, Package

DPKG = b"""Package: libstdc++6
Status: install ok installed
Architecture: amd64
Source: gcc-12 (12.2.0-14)
Version: 12.2.0-14+deb12u1
Homepage: http://gcc.gnu.org/
Description: GNU library
 Package: not-me
 Version: 1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: epoch
Status: hold ok installed
Architecture: all
Version: 1:2.0~rc1-1
"""
APK = b"""C:Q1abc=
P:musl
V:1.2.4-r2
A:x86_64
L:MIT
U:https://musl.libc.org/
o:musl

P:busybox-binsh
V:1.36.1-r5
A:x86_64
L:GPL-2.0-only
o:busybox
"""
BOOKWORM = Distribution("debian", "12")


def test_dpkg() -> None:
    found = list(packages.dpkg(DPKG, "/var/lib/dpkg/status"))
    assert [(each.name, each.version, each.source) for each in found] == [
        ("libstdc++6", "12.2.0-14+deb12u1", "gcc-12"),
        ("epoch", "1:2.0~rc1-1", ""),
    ]
    assert found[0].purl(BOOKWORM) == (
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"
    )
    assert found[1].purl() == "pkg:deb/debian/epoch@1:2.0~rc1-1?arch=all"
    bare = list(packages.dpkg(b"Package: tzdata\nVersion: 2024a-0\n", "/x"))
    assert [each.name for each in bare] == ["tzdata"]


def test_apk() -> None:
    found = list(packages.apk(APK, "/lib/apk/db/installed"))
    assert [(each.name, each.license, each.source) for each in found] == [
        ("musl", "MIT", "musl"),
        ("busybox-binsh", "GPL-2.0-only", "busybox"),
    ]
    assert found[0].purl(Distribution("alpine", "3.19.1")) == (
        "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.19.1"
    )


def test_pip() -> None:
    data = b"Metadata-Version: 2.1\r\nName: Zope.Interface_x\r\nVersion: 6.1\r\n\r\nName: no\r\n"
    (found,) = packages.pip(data, "/x")
    assert (found.name, found.purl()) == ("Zope.Interface_x", "pkg:pypi/zope-interface-x@6.1")


def test_npm() -> None:
    data = b'{"name":"@babel/core","version":"7.1.0","license":{"type":"MIT"},"homepage":[1]}'
    (found,) = packages.npm(data, "/x")
    assert (found.license, found.homepage) == ("MIT", "")
    assert found.purl() == "pkg:npm/%40babel/core@7.1.0"


def test_os_release() -> None:
    data = b'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n'
    assert packages.os_release(data) == BOOKWORM
    assert packages.os_release(b"ID=$(rm -rf)\nVERSION_ID=a b") == Distribution()


@pytest.mark.parametrize(
    ("name", "version"),
    [("", "1"), ("a", ""), ("../../x", "1"), ("a b", "1"), ("a", "1 2"), ("a\x1b[m", "1")],
)
def test_what_is_no_name_or_version_is_passed_over(name: str, version: str) -> None:
    data = f"Package: {name}\nVersion: {version}\n".encode()
    assert list(packages.dpkg(data, "/x")) == []


def test_limit() -> None:
    with pytest.raises(LimitExceeded):
        list(packages.apk(b"\n" * (packages.MAX_DATABASE + 1), "/x"))


READERS: list[Callable[[bytes, str], Iterator[Package]]] = [
    packages.dpkg,
    packages.apk,
    packages.pip,
    packages.npm,
]
LINES = st.lists(
    st.sampled_from(["Package: a", "Version: 1", "Name: b", "P:c", "V:1", "", " x", "[" * 3000])
    | st.text(max_size=20)
).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))


@given(st.binary(max_size=300) | LINES)
def test_no_bytes_break_the_readers(data: bytes) -> None:
    for read in READERS:
        for package in read(data, "/x"):
            assert package.purl().startswith(f"pkg:{package.kind}/") and " " not in package.purl()
    assert " " not in packages.os_release(data).id
