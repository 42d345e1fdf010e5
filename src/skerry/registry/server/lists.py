"""Lists in pages: tags of a repository, and the catalogue."""

from typing import Final
from urllib.parse import quote

from aiohttp import web

from skerry.registry.server import names
from skerry.registry.server.call import Call, answer
from skerry.registry.server.refusals import Refusal

CATALOG_PAGE: Final = 1000
"""At most so many names of the catalogue at a time; 100 when the client says nothing."""


async def tags(call: Call) -> web.StreamResponse:
    """`GET /v2/<name>/tags/list[?n=&last=]`."""
    found = await call.work(call.storage.tags, call.repository)
    page, headers = _page(
        call, found, f"/v2/{call.repository}/tags/list", count(call.query.get("n"))
    )
    return answer({"name": call.repository, "tags": page}, headers=headers)


async def catalog(call: Call) -> web.StreamResponse:
    """`GET /v2/_catalog[?n=&last=]`."""
    wanted = count(call.query.get("n"))
    number = min(100 if wanted is None else wanted, CATALOG_PAGE)
    found = await call.work(call.storage.repositories)
    page, headers = _page(call, found, "/v2/_catalog", number)
    return answer({"repositories": page}, headers=headers)


def count(text: str | None) -> int | None:
    """The parameter `n`; None when it is not given."""
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Refusal("PAGINATION_NUMBER_INVALID", f"n is {text!r:.40}, not a whole number")
    return int(text)


def _page(
    call: Call, found: list[str], path: str, number: int | None
) -> tuple[list[str], dict[str, str]]:
    rest = names.after(found, call.query.get("last", ""))
    if number is None or len(rest) <= number:
        return rest, {}
    page = rest[:number]
    if not page:
        return [], {}
    link = f"<{path}?n={number}&last={quote(page[-1], safe='')}>"
    return page, {"Link": f'{link}; rel="next"'}
