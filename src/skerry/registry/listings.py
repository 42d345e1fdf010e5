"""Lists that come in pages: tags, repositories, referrers; and search.

The next page is where the answer's `Link` header says (RFC 8288), on the same host only. Pages,
names and bytes are limited: a registry may have a page after every page.
"""

import asyncio
import json
import re
from typing import Any, Final, NamedTuple

import msgspec

from skerry.base.errors import (
    InvalidInput,
    RegistryLimit,
    RegistryNotFound,
    RegistryProtocol,
)
from skerry.base.oci_image import OCI_INDEX, Descriptor, parse_index
from skerry.registry.transport import Ask, Transport
from skerry.registry.wire import Answer, Hopeless

MAX_PAGE: Final = 8 << 20
MAX_PAGES: Final = 1000
MAX_NAMES: Final = 200_000
MAX_REFERRERS: Final = 4096
CATALOG_SCOPE: Final = "registry:catalog:*"
DOCKER_HUB_SEARCH: Final = "https://index.docker.io/v1/search"

_LINK = re.compile(r'\s*<([^<>]{1,8192})>((?:\s*;\s*[a-zA-Z*]+\s*=\s*(?:"[^"]*"|[^\s;,"]+))*)')
_NEXT = re.compile(r';\s*rel\s*=\s*"?next"?(?:\s*;|\s*$)', re.IGNORECASE)


class SearchResult(NamedTuple):
    """One repository found."""

    name: str
    description: str
    stars: int
    official: bool
    automated: bool


def next_page(header: str) -> str:
    """The target of the link whose relation is `next`; empty when there is none."""
    place = 0
    for _ in range(32):
        match = _LINK.match(header, place)
        if not match:
            return ""
        if _NEXT.search(match.group(2)):
            return match.group(1)
        place = match.end()
        comma = re.compile(r"\s*,").match(header, place)
        if not comma:
            return ""
        place = comma.end()
    return ""


async def _pages(source: Transport, ask: Ask, limit: int, key: str) -> list[Any]:
    """The list `key` of all pages together, up to `limit` entries."""
    try:
        async with asyncio.timeout(source.patience):
            return await _all_pages(source, ask, limit, key)
    except TimeoutError:
        raise RegistryLimit(
            source.registry, ask.reference, f"the list did not end in {source.patience:g} s"
        ) from None


async def _all_pages(source: Transport, ask: Ask, limit: int, key: str) -> list[Any]:
    found: list[Any] = []
    asked = set()
    for _ in range(MAX_PAGES):
        answer, data = await source.document(ask, MAX_PAGE)
        try:
            document = json.loads(data)
            entries = (document.get(key) if isinstance(document, dict) else None) or []
        except (ValueError, RecursionError):
            entries = None
        if not isinstance(entries, list):
            raise RegistryProtocol(source.registry, ask.reference, f"the answer has no list {key}")
        found += entries
        if len(found) >= limit:
            return found[:limit]
        following = _following(source, ask, answer)
        if not following:
            return found
        if following in asked:
            raise RegistryProtocol(
                source.registry, ask.reference, "the pages of the list lead in a circle"
            )
        asked.add(following)
        ask = ask._replace(path=following, query={})
    raise RegistryLimit(source.registry, ask.reference, f"more than {MAX_PAGES} pages")


def _following(source: Transport, ask: Ask, answer: Answer) -> str:
    target = next_page(", ".join(answer.headers.getall("Link", ())))
    if not target:
        return ""
    try:
        url = source.target(answer.url, target)
    except Hopeless as error:
        raise RegistryProtocol(source.registry, ask.reference, f"the next page {error}") from None
    if url.origin() != answer.url.origin():
        raise RegistryProtocol(
            source.registry, ask.reference, f"the next page is on another host, {url.host}"
        )
    return str(url)


async def tags(source: Transport, repository: str) -> list[str]:
    """All tags."""
    path = f"{source.repository(repository)}/tags/list"
    ask = Ask("GET", path, repository, (source.scope(repository),), query={"n": "1000"})
    return _texts(source, repository, await _pages(source, ask, MAX_NAMES, "tags"))


async def catalog(source: Transport, limit: int) -> list[str]:
    """Repositories, up to `limit`."""
    query = {"n": str(min(limit, 1000))}
    ask = Ask("GET", "_catalog", "_catalog", (CATALOG_SCOPE,), query=query)
    return _texts(
        source, "_catalog", await _pages(source, ask, min(limit, MAX_NAMES), "repositories")
    )


def _texts(source: Transport, reference: str, found: list[Any]) -> list[str]:
    if not all(isinstance(each, str) and len(each) < 1024 and each.isprintable() for each in found):
        raise RegistryProtocol(source.registry, reference, "the list holds what is no name")
    return found


def fallback_tag(digest: str) -> str:
    """The tag of the referrers of a digest where there is no API (referrers tag schema)."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm:.32}-{encoded:.64}"


async def referrers_api(
    source: Transport, repository: str, digest: str, artifact_type: str
) -> list[Descriptor] | None:
    """By the API; None when the registry has none."""
    reference = f"{repository}@{digest}"
    query = {"artifactType": artifact_type} if artifact_type else {}
    ask = Ask(
        "GET",
        f"{source.repository(repository)}/referrers/{digest}",
        reference,
        (source.scope(repository),),
        {"Accept": OCI_INDEX},
        query,
    )
    try:
        found = await _pages(source, ask, MAX_REFERRERS, "manifests")
    except RegistryNotFound:
        return None
    except RegistryProtocol as error:
        if any(f"HTTP {status}" in error.reason for status in (400, 405, 501)):
            return None
        raise
    document = {"schemaVersion": 2, "manifests": found}
    try:
        return parse_index(msgspec.json.encode(document)).manifests
    except InvalidInput as error:
        raise RegistryProtocol(source.registry, reference, error.message) from None


async def search(source: Transport, term: str, limit: int, hub: bool) -> list[SearchResult]:
    """By Docker's v1 search (Docker Hub, and whoever else has it); RegistryNotFound without it."""
    base = await source.base()
    url = DOCKER_HUB_SEARCH if hub else str(base / "v1/search")
    ask = Ask("GET", url, "search", query={"q": term, "n": str(limit)})
    _, data = await source.document(ask, MAX_PAGE)
    try:
        entries = json.loads(data)["results"]
        found = [_result(entry) for entry in entries[:limit]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise RegistryNotFound(
            source.registry, "search", "the answer is no search result"
        ) from None
    return found


def _result(entry: dict[str, Any]) -> SearchResult:
    name, description = str(entry["name"]), str(entry.get("description") or "")
    stars = entry.get("star_count")
    return SearchResult(
        _plain(name)[:255],
        _plain(description)[:1000],
        stars if isinstance(stars, int) else 0,
        entry.get("is_official") is True,
        entry.get("is_automated") is True,
    )


def _plain(text: str) -> str:
    """What cannot do harm on a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
