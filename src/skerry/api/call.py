"""One request as the routes see it: its parameters read with limits, its answers made."""

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from aiohttp import web

from skerry.api.versions import Version
from skerry.base.errors import InvalidInput, LimitExceeded, Unavailable
from skerry.build.builder import Builder
from skerry.engine.engine import Engine

BODY_LIMIT = 8 << 20
"""Bytes of a JSON body."""
FILTER_LIMIT = 64
_SO_SNDBUFFORCE = 32
"""<asm-generic/socket.h>: SO_SNDBUF beyond net.core.wmem_max; the kernel doubles it."""
_SOCKET_HOLDS = 128 << 10
_AT_ONCE = 2 << 20

_encoder = msgspec.json.Encoder()


class Call:
    """A request, its route's parameters and the engine."""

    __slots__ = ("_builder", "engine", "params", "query", "request", "version")

    def __init__(
        self,
        request: web.BaseRequest,
        engine: Engine,
        version: Version,
        params: Mapping[str, str],
        builder: Builder | None = None,
    ) -> None:
        self.request = request
        self._builder = builder
        self.engine = engine
        self.version = version
        self.params = params
        self.query = request.rel_url.query

    @property
    def builder(self) -> Builder:
        """The engine's builder."""
        if self._builder is None:
            raise Unavailable("this engine has no builder")
        return self._builder

    def text(self, name: str, default: str = "") -> str:
        """A parameter of the query."""
        return self.query.get(name, default)

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value, as Docker reads it: anything but empty, 0, no, false and none."""
        value = self.query.get(name)
        if value is None:
            return default
        return value.strip().lower() not in ("", "0", "no", "false", "none")

    def number(self, name: str, default: int = 0) -> int:
        """A whole number; InvalidInput otherwise."""
        value = self.query.get(name, "")
        if not value:
            return default
        try:
            return int(value[:32])
        except ValueError:
            raise InvalidInput(f"invalid value for {name}: {value!r:.60}") from None

    def filters(self) -> dict[str, frozenset[str]]:
        """`filters`: `{"key": ["value"]}` or the older `{"key": {"value": true}}`."""
        raw = self.query.get("filters")
        if not raw:
            return {}
        try:
            data = json.loads(raw)
            if data is None:
                return {}
            if not isinstance(data, dict) or len(data) > FILTER_LIMIT:
                raise ValueError
            result = {}
            for key, values in data.items():
                if isinstance(values, dict):
                    values = [value for value, wanted in values.items() if wanted]
                if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
                    raise ValueError
                result[key] = frozenset(values)
        except (ValueError, RecursionError):
            raise InvalidInput(f"invalid filter {raw!r:.80}") from None
        return result

    async def body(self, limit: int = BODY_LIMIT) -> dict[str, Any]:
        """The JSON object in the body, `{}` when there is none; InvalidInput, LimitExceeded."""
        self._check_json()
        data = await self.whole(limit)
        if not data.strip():
            return {}
        try:
            # As in Go, bytes that are no UTF-8 are replaced, not refused.
            value = msgspec.json.decode(data.decode("utf-8", "replace"))
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidInput(f"invalid JSON: {error}") from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InvalidInput("invalid JSON: expected an object")
        return value

    def _check_json(self) -> None:
        """InvalidInput, in Docker's words, for a body that says to be something else."""
        said = self.request.headers.get("Content-Type", "")
        kind, parameters, rest = said.partition(";")
        kind = kind.strip().lower()
        if kind == "application/json" and (not parameters or "=" in rest or not rest.strip()):
            return
        if not said and not self.request.body_exists:
            return
        wrong = "malformed" if not kind or kind == "application/json" else "unsupported"
        wanted = ": must be 'application/json'" if wrong == "unsupported" else ""
        raise InvalidInput(f"{wrong} Content-Type header ({said:.200}){wanted}")

    async def whole(self, limit: int) -> bytes:
        """The whole body."""
        if (self.request.content_length or 0) > limit:
            raise LimitExceeded(f"request body is larger than {limit} bytes")
        if not self.request.body_exists:
            return b""
        chunks = bytearray()
        async for chunk in self.chunks():
            chunks += chunk
            if len(chunks) > limit:
                raise LimitExceeded(f"request body is larger than {limit} bytes")
        return bytes(chunks)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes in."""
        if self.request.body_exists:
            async for chunk in self.request.content.iter_any():
                yield chunk

    def json(self, data: Any, status: int = 200) -> web.Response:
        """An answer."""
        return web.Response(
            body=encode(data) + b"\n", status=status, content_type="application/json"
        )

    def whole_json(self, text: bytes) -> web.Response:
        """An answer of JSON that is long: it leaves in one go, not a piece with each reading of
        a client whose processor is then ours every other moment."""
        transport = self.request.transport
        sock = transport and transport.get_extra_info("socket")
        if sock and len(text) > _SOCKET_HOLDS:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, min(len(text), _AT_ONCE))
        return web.Response(body=text + b"\n", content_type="application/json")

    async def stream(self, content_type: str = "application/json") -> web.StreamResponse:
        """An answer of unknown length, its headers sent at once."""
        response = web.StreamResponse(headers={"Content-Type": content_type})
        response.enable_chunked_encoding()
        await response.prepare(self.request)
        return response


def encode(data: Any) -> bytes:
    """JSON. Names of files may hold bytes that are no UTF-8; they show as question marks."""
    try:
        return _encoder.encode(data)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(data)
        return json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace")


def no_content() -> web.Response:
    """204."""
    return web.Response(status=204)


def line(data: Any) -> bytes:
    """One line of a JSON stream."""
    return encode(data) + b"\r\n"
