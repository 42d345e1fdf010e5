"""Which of an index's manifests fits a platform."""

import json

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.digests import sha256
from skerry.base.errors import RegistryError, RegistryNotFound
from skerry.base.oci_image import (
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Platform,
)
from skerry.base.platforms import this_platform
from skerry.registry.auth import anonymous
from skerry.registry.client import Client
from skerry.registry.config import Registries, RegistrySettings
from skerry.registry.documents import choose, kind_of, show


def entry(text: str, kind: str = OCI_MANIFEST) -> Descriptor:
    """`os/architecture[/variant]`, empty for none."""
    platform = None
    if text:
        system, architecture, *variant = text.split("/")
        platform = Platform(architecture, system, variant="".join(variant))
    return Descriptor(kind, sha256(text.encode()), 1, platform=platform)


def wanted(text: str) -> Platform:
    found = entry(text).platform
    assert found
    return found


@pytest.mark.parametrize(
    ("want", "there", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/arm64", ["linux/amd64", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/arm64"], "linux/arm64"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], "linux/arm/v6"),
        ("linux/arm", ["linux/arm/v5", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["windows/amd64", ""], ""),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], "linux/amd64"),
    ],
)
def test_chosen(want: str, there: list[str], chosen: str) -> None:
    index = Index(2, [entry(text) for text in there], OCI_INDEX)
    assert choose("r", "app:v1", index, wanted(want)) == entry(chosen)


@pytest.mark.parametrize(
    ("want", "there"),
    [
        ("linux/amd64", ["linux/arm64", "unknown/unknown"]),
        ("linux/arm/v6", ["linux/arm/v7"]),
        ("linux/amd64", ["linux/amd64/v3"]),
    ],
)
def test_none_fits(want: str, there: list[str]) -> None:
    index = Index(2, [entry(text) for text in there], OCI_INDEX)
    with pytest.raises(RegistryNotFound, match=f"r/app:v1: no image for {want}") as caught:
        choose("r", "app:v1", index, wanted(want))
    assert there[0] in caught.value.hint
    assert "unknown" not in caught.value.hint


def test_an_empty_index_and_what_is_no_image() -> None:
    for entries in ([], [Descriptor("application/x-tar", sha256(b""), 1)]):
        with pytest.raises(RegistryNotFound):
            choose("r", "app", Index(2, entries, OCI_INDEX), this_platform())


_PARTS = st.sampled_from(["linux", "amd64", "arm", "arm64", "v6", "v7", "v8", "", "unknown"])
_PLATFORMS = st.builds(lambda a, o, v: Platform(a, o, variant=v), _PARTS, _PARTS, _PARTS)


@given(st.lists(_PLATFORMS, max_size=5), _PLATFORMS)
def test_what_is_chosen_is_of_the_system_and_architecture(
    there: list[Platform], want: Platform
) -> None:
    entries = [Descriptor(OCI_MANIFEST, sha256(b""), 1, platform=each) for each in there]
    try:
        found = choose("r", "app", Index(2, entries, OCI_INDEX), want).platform
    except RegistryNotFound:
        assert want not in there
        return
    assert found
    assert (found.os, found.architecture) == (want.os, want.architecture)
    assert want not in there or found == want, show(found)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["mediaType", "schemaVersion", "manifests", "layers", "x"]), inner
        )
    ),
    max_leaves=8,
)


@given(
    st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["", "application/json", OCI_MANIFEST, OCI_INDEX, "text/html"]),
)
def test_any_document_is_of_a_known_kind_or_refused(data: bytes, header: str) -> None:
    try:
        kind = kind_of("r", "app:v1", header, data)
    except RegistryError as error:
        assert error.message.startswith("r/app:v1: ")
    else:
        assert kind in INDEXES | MANIFESTS


async def test_a_mirror_that_is_down_is_asked_once(servers) -> None:
    """What it lacks is another matter: it may have the next."""
    seen: list[str] = []

    async def down(request: web.BaseRequest) -> web.Response:
        seen.append("down")
        return web.Response(status=503)

    async def lacking(request: web.BaseRequest) -> web.Response:
        seen.append("lacking")
        return web.Response(status=404)

    async def own(request: web.BaseRequest) -> web.Response:
        return web.Response(body=b'{"schemaVersion":2}', content_type=OCI_MANIFEST)

    names = [await servers.web(handler) for handler in (down, lacking, own)]
    settings = {name: RegistrySettings(name, name, plain_http=True) for name in names}
    settings[names[2]] = settings[names[2]]._replace(mirrors=tuple(names[:2]))
    limits = servers.quick._replace(attempts=2)
    async with Client(names[2], Registries(settings), anonymous(), limits=limits) as client:
        await client.manifest("app", "v1")
        await client.manifest("app", "v2")
    assert seen == ["down", "down", "lacking", "lacking"]
