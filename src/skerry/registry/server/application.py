"""From a request to its route, and from whatever happens there to an answer.

The specification's paths end in fixed words, and a repository's name has slashes of its own, so the
patterns are tried from the end: `/v2/<name>/manifests/<reference>` and so on.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web

from skerry.registry.server import access, blobs, lists, manifests, names, page, transfers
from skerry.registry.server.call import HEADERS, Busy, Call, Options, Origin, answer
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.sending import Sender
from skerry.registry.server.storage import Storage

log = logging.getLogger(__name__)

Route = Callable[[Call], Awaitable[web.StreamResponse]]
_SHORT = 64 << 10
"""Bytes of a body that is read to its end though it was refused."""
_WRITES = frozenset(("POST", "PUT", "PATCH", "DELETE"))


async def ping(call: Call) -> web.StreamResponse:
    """`GET /v2/`: yes, this is a registry."""
    return answer({})


ROUTES: Final[tuple[tuple[re.Pattern[str], dict[str, Route]], ...]] = (
    (re.compile(r"/v2/?"), {"GET": ping}),
    (re.compile(r"/v2/_catalog"), {"GET": lists.catalog}),
    (
        re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?"),
        {"POST": transfers.start},
    ),
    (
        re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<reference>[^/]+)"),
        {
            "GET": transfers.status,
            "PATCH": transfers.add,
            "PUT": transfers.finish,
            "DELETE": transfers.cancel,
        },
    ),
    (
        re.compile(r"/v2/(?P<name>.+)/blobs/(?P<reference>[^/]+)"),
        {"GET": blobs.get, "DELETE": blobs.delete},
    ),
    (
        re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)"),
        {"GET": manifests.get, "PUT": manifests.put, "DELETE": manifests.delete},
    ),
    (re.compile(r"/v2/(?P<name>.+)/tags/list"), {"GET": lists.tags}),
    (
        re.compile(r"/v2/(?P<name>.+)/referrers/(?P<reference>[^/]+)"),
        {"GET": manifests.referrers},
    ),
    (re.compile(r"/"), {"GET": page.overview}),
    (re.compile(r"/repository/(?P<name>.+)"), {"GET": page.repository}),
)


class Application:
    """Answers requests over one storage."""

    def __init__(
        self,
        storage: Storage,
        options: Options | None = None,
        *,
        users: access.Htpasswd | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.storage = storage
        self._options = options or Options()
        self._users = users
        self._origin = origin
        self._busy = Busy()
        self._workers = ThreadPoolExecutor(8, thread_name_prefix="registry")
        self._sender = Sender()
        # Guessing passwords must not keep pushes waiting.
        self._guards = ThreadPoolExecutor(1, thread_name_prefix="guard")

    def close(self) -> None:
        """Wait for the workers."""
        self._workers.shutdown()
        self._guards.shutdown()
        self._sender.close()

    async def collect(self, *, grace: float, untagged: bool) -> None:
        """One collection, beside the requests."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            None, lambda: self.storage.collect(grace=grace, untagged=untagged)
        )
        if any(found):
            log.info("collected %s", found._asdict())

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        started = time.monotonic()
        try:
            response = await self._route(request)
        except Refusal as refusal:
            response = answer(refusal.body(), refusal.status, refusal.headers)
            if refusal.status >= 500:
                log.error("%s %s: %s", request.method, request.path, refusal.message)
        except ConnectionError:
            # The client has gone: nobody reads this.
            response = web.Response(status=400)
            response.force_close()
        except web.HTTPException:
            raise
        except Exception:
            log.exception("%s %s", request.method, request.path)
            fault = Refusal("UNKNOWN", "internal error; the server's log says more")
            response = answer(fault.body(), fault.status)
        log.debug(
            "%s %s %d %.1f ms",
            request.method,
            request.path_qs,
            response.status,
            1000 * (time.monotonic() - started),
        )
        if not response.prepared:
            response.headers.update(HEADERS)
            if response.status >= 400 and not request.content.is_eof():
                # What is left of a refused body is not worth reading, unless it is about to come:
                # whether a short one came with its head shall make no difference.
                length = request.content_length
                if length is None or length > _SHORT:
                    response.force_close()
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        await self._authenticate(request)
        path = request.path
        for pattern, methods in ROUTES:
            found = pattern.fullmatch(path)
            if not found:
                continue
            method = "GET" if request.method == "HEAD" else request.method
            route = methods.get(method)
            if route is None:
                raise Refusal(
                    "UNSUPPORTED",
                    f"{request.method:.20} is not for {path:.200}",
                    headers={"Allow": ", ".join(sorted(methods))},
                )
            if method in _WRITES and (self._options.read_only or self._origin is not None):
                raise Refusal("UNSUPPORTED", "this registry is read-only")
            if method == "DELETE" and not self._options.delete and "/uploads/" not in path:
                raise Refusal("UNSUPPORTED", "this registry does not delete")
            if not path.startswith("/v2") and not self._options.page:
                break
            words = found.groupdict()
            name = words.get("name", "")
            return await route(
                Call(
                    request=request,
                    storage=self.storage,
                    options=self._options,
                    workers=self._workers,
                    sender=self._sender,
                    busy=self._busy,
                    origin=self._origin,
                    repository=names.repository(name) if name else "",
                    reference=words.get("reference", ""),
                )
            )
        raise Refusal("NAME_UNKNOWN", f"there is nothing at {path:.200}")

    async def _authenticate(self, request: web.BaseRequest) -> None:
        if self._users is None:
            return
        header = request.headers.get("Authorization", "")
        if not header:
            raise access.challenge()
        if self._users.remembered(header):
            return
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._guards, self._users.verify, header):
            raise access.challenge()
