"""The page for people: repositories, and in each its tags, platforms, layers and sizes.

Everything shown came from somebody's push, so every word is escaped, and the page may load nothing.
"""

from html import escape
from typing import Any, Final
from urllib.parse import quote

import msgspec
from aiohttp import web

from skerry.registry.server import documents, names
from skerry.registry.server.call import Call
from skerry.registry.server.documents import Document
from skerry.registry.server.refusals import Refusal

PAGE: Final = 100
"""Rows of a page."""
MAX_CONFIG: Final = 1 << 20
"""Bytes of a config that is read to show its platform."""
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .8rem .35rem 0;
border-bottom:1px solid #ddd;vertical-align:top}td.n,th.n{text-align:right;white-space:nowrap}
code{font-size:13px;overflow-wrap:anywhere}a{color:#0b57d0;text-decoration:none}
details{margin:0}summary{cursor:pointer}h1{font-size:1.4rem}
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}a{color:#8ab4f8}
th,td{border-color:#444}}
"""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def human(size: int) -> str:
    """Bytes as people read them: `12.3 MB`."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"


async def overview(call: Call) -> web.StreamResponse:
    """`GET /`."""
    return await call.work(_overview, call)


async def repository(call: Call) -> web.StreamResponse:
    """`GET /repository/<name>`."""
    return await call.work(_repository, call)


def _overview(call: Call) -> web.Response:
    last = call.query.get("last", "")
    every = call.storage.repositories()
    rest = names.after(every, last)
    rows = []
    for name in rest[:PAGE]:
        try:
            tags = call.storage.tags(name)
        except Refusal:
            continue
        shown = ", ".join(tags[:6]) + (", …" if len(tags) > 6 else "")
        rows.append(
            f'<tr><td><a href="/repository/{quote(name)}">{escape(name)}</a></td>'
            f'<td class="n">{len(tags)}</td><td>{escape(shown)}</td></tr>'
        )
    body = f"<h1>Repositories ({len(every)})</h1>" + _table(
        ("Repository", "#Tags", "Names"), rows, "Nothing has been pushed yet."
    )
    return _html("Repositories", body + _more("/", rest))


def _repository(call: Call) -> web.Response:
    name = call.repository
    rest = names.after(call.storage.tags(name), call.query.get("last", ""))
    rows = [_tag_row(call, tag) for tag in rest[:PAGE]]
    host = call.request.headers.get("Host", "")
    body = (
        f'<p><a href="/">Repositories</a></p><h1>{escape(name)}</h1>'
        f"<p><code>skerry pull {escape(host)}/{escape(name)}</code></p>"
    ) + _table(
        ("Tag", "Platform", "#Size", "Digest and layers"), rows, "No manifest here has a tag."
    )
    return _html(name, body + _more(f"/repository/{quote(name)}", rest))


def _tag_row(call: Call, tag: str) -> str:
    try:
        found = _document(call, call.storage.resolve(call.repository, tag))
    except Refusal:
        return ""
    parts: list[tuple[str, Document]] = [(_platform(call, found), found)]
    if found.is_index:
        parts = []
        for piece in found.manifests[:32]:
            try:
                parts.append((piece.platform, _document(call, piece.digest)))
            except Refusal:
                continue  # an index may speak of manifests that were never pushed
    platforms = "<br>".join(escape(platform) or "—" for platform, _ in parts) or "—"
    sizes = "<br>".join(human(document.size) for _, document in parts) or "—"
    layers = "".join(_layers(platform, document) for platform, document in parts)
    return (
        f"<tr><td>{escape(tag)}</td><td>{platforms}</td><td class=n>{sizes}</td>"
        f"<td><code>{escape(found.digest)}</code>{layers}</td></tr>"
    )


def _platform(call: Call, document: Document) -> str:
    """As the config says; empty when it is none of an image's or is not here."""
    if not document.blobs or document.blobs[0].size > MAX_CONFIG:
        return ""
    try:
        with open(call.storage.blob(call.repository, document.blobs[0].digest).path, "rb") as file:
            config = msgspec.json.decode(file.read(MAX_CONFIG), type=dict[str, Any])
    except (Refusal, OSError, msgspec.MsgspecError, RecursionError, ValueError):
        return ""
    words = [config.get(key) for key in ("os", "architecture", "variant")]
    return "/".join(word for word in words if isinstance(word, str) and word)[:100]


def _layers(platform: str, document: Document) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(piece.digest)}</code></td>"
        f"<td class=n>{human(piece.size)}</td><td>{escape(piece.media_type[:100])}</td></tr>"
        for piece in document.blobs[1:200]
    )
    count = max(0, len(document.blobs) - 1)
    title = f"{platform + ': ' if platform else ''}{count} layer{'s' if count != 1 else ''}"
    return f"<details><summary>{escape(title)}</summary><table>{lines}</table></details>"


def _document(call: Call, digest: str) -> Document:
    found = call.storage.manifest(call.repository, digest)
    return documents.parse(found.data, found.media_type, digest=digest)


def _table(heads: tuple[str, ...], rows: list[str], nothing: str) -> str:
    if not rows:
        return f"<p>{nothing}</p>"
    head = "".join(
        f'<th class="n">{name[1:]}</th>' if name[0] == "#" else f"<th>{name}</th>" for name in heads
    )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _more(path: str, rest: list[str]) -> str:
    if len(rest) <= PAGE:
        return ""
    last = quote(rest[PAGE - 1], safe="")
    return f'<p><a href="{path}?last={last}">{len(rest) - PAGE} more</a></p>'


def _html(title: str, body: str) -> web.Response:
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)
