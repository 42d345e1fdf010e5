"""Requests to one registry host: retries, redirects, authorization, and answers as errors.

Order of one request: the authorization that is known already, up to `Limits.redirects` redirects,
after a 401 of the registry itself one new authorization, then again with backoff and jitter when
the connection broke or the answer was 5xx. A 4xx is never repeated.

A redirect to another origin (scheme, host, port) goes without `Authorization`, and what that
origin says of authorization is not listened to: a registry that points to somebody else's server
must not be able to hand it our credentials.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, TypeVar

from yarl import URL

from skerry.base.errors import (
    InvalidInput,
    RegistryDenied,
    RegistryError,
    RegistryLimit,
    RegistryNotFound,
    RegistryProtocol,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnreachable,
)
from skerry.registry import rate_limits as quotas
from skerry.registry.auth import Credentials
from skerry.registry.config import RegistrySettings
from skerry.registry.tokens import Authorizer, NotAccepted, TokenRefused
from skerry.registry.wire import Answer, Body, Cut, Hopeless, NoTls, TooMuch, Wire

MAX_ERROR: Final = 64 << 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
T = TypeVar("T")


class Ask(NamedTuple):
    """One request as it is meant."""

    method: str
    path: str
    """Below `/v2/`, or a whole URL where the registry named one (uploads, next pages)."""
    reference: str
    """For errors."""
    scopes: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    body: Body | None = None
    ok: frozenset[int] = frozenset({200})
    repeat: bool = True
    """Whether it may be sent again after a cut."""
    anonymous: bool = False
    """Sent as it is: a 401 is an answer."""


class Transport:
    """One host that is asked for the content of one registry. Safe for many tasks."""

    def __init__(
        self,
        wire: Wire,
        registry: str,
        settings: RegistrySettings,
        prefix: str,
        credentials: Credentials,
    ) -> None:
        """`registry` is the name for errors, `prefix` what is put before repositories."""
        self.registry = registry
        self.settings = settings
        self.prefix = prefix
        self.rate_limit: quotas.RateLimit | None = None
        self.authorizer = Authorizer(wire, settings.name, credentials)
        self._wire = wire
        self._limits = wire.limits
        self._base: URL | None = None
        self._finding = asyncio.Lock()

    @property
    def attempts(self) -> int:
        """How often something is tried."""
        return self._limits.attempts

    @property
    def patience(self) -> float:
        """Seconds that a list may take, with all of its pages."""
        return self._limits.list

    @property
    def host(self) -> str:
        """What is connected to."""
        return self.settings.location.partition("/")[0]

    def repository(self, name: str) -> str:
        """A repository's name as this host knows it."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def scope(self, repository: str, actions: str = "pull") -> str:
        """The token scope for a repository."""
        return f"repository:{self.repository(repository)}:{actions}"

    @asynccontextmanager
    async def open(self, ask: Ask) -> AsyncIterator[Answer]:
        """The answer to a request, its body unread; RegistryError unless its status is `ok`."""
        answer = await self.send(ask)
        try:
            yield answer
        finally:
            answer.close()

    async def head(self, ask: Ask) -> Answer:
        """The answer to a request whose body does not matter."""
        answer = await self.send(ask)
        await answer.drain()
        return answer

    async def document(self, ask: Ask, limit: int) -> tuple[Answer, bytes]:
        """The answer and its whole body, read again from the start after a cut."""

        async def once() -> tuple[Answer, bytes]:
            answer = await self._once(ask)
            try:
                return answer, await answer.read(limit)
            except TooMuch:
                raise RegistryLimit(
                    self.registry, ask.reference, f"the answer is longer than {limit} bytes"
                ) from None
            finally:
                answer.close()

        return await self._repeated(ask, once)

    async def send(self, ask: Ask) -> Answer:
        """The answer to a request; the caller closes it."""
        return await self._repeated(ask, lambda: self._once(ask))

    async def login(self, challenge: Answer) -> None:
        """Answer a challenge with our credentials, and have the answer accepted."""

        async def once() -> None:
            header = await self.authorizer.login(challenge)
            ask = Ask("GET", "", "", headers={"Authorization": header}, anonymous=True)
            answer = await self._once(ask._replace(ok=frozenset({200, 401})))
            await answer.drain()
            if answer.status == 401:
                raise NotAccepted

        await self._repeated(Ask("GET", "", ""), once)

    async def _repeated(self, ask: Ask, once: Callable[[], Awaitable[T]]) -> T:
        attempts = self._limits.attempts if ask.repeat else 1
        for attempt in range(1, attempts + 1):
            try:
                return await once()
            except Cut as cut:
                if attempt == attempts:
                    raise self.unreachable(ask.reference, str(cut), attempts) from None
                await self.pause(attempt)
            except Hopeless as error:
                raise RegistryUnreachable(
                    self.registry, ask.reference, self._named(str(error)), hint=error.hint
                ) from None
            except NotAccepted:
                raise await self._unauthorized(ask.reference) from None
            except InvalidInput as error:
                if isinstance(error, RegistryError):
                    raise
                raise RegistryProtocol(
                    self.registry, ask.reference, self._named(error.message), hint=error.hint
                ) from None
        raise AssertionError("every attempt returns or raises")

    async def pause(self, attempt: int) -> None:
        """Wait before attempt number `attempt` + 1: doubling, with full jitter, so that many
        clients that were cut off together do not come back together."""
        longest = min(self._limits.longest_pause, self._limits.pause * 2 ** (attempt - 1))
        await asyncio.sleep(random.uniform(longest / 2, longest))

    async def _once(self, ask: Ask) -> Answer:
        url = await self._url(ask)
        try:
            authorization = ""
            if not ask.anonymous:
                authorization = await self.authorizer.header(ask.scopes)
            answer = await self._follow(ask, url, authorization)
            if answer.status == 401 and self._ours(answer.url) and not ask.anonymous:
                await answer.drain()
                authorization = await self.authorizer.challenged(answer, ask.scopes, authorization)
                answer = await self._follow(ask, url, authorization)
        except TokenRefused as refused:
            answer = refused.answer
        self.rate_limit = quotas.parse_rate_limit(answer.headers) or self.rate_limit
        if answer.status in ask.ok:
            return answer
        raise await self.failure(answer, ask.reference)

    async def _follow(self, ask: Ask, url: URL, authorization: str) -> Answer:
        """Send, and go where a redirect leads: reads only, credentials to our own host only."""
        settings: RegistrySettings | None = self.settings
        headers = dict(ask.headers)
        if authorization and self._ours(url):
            headers["Authorization"] = authorization
        for _ in range(self._limits.redirects + 1):
            answer = await self._wire.send(ask.method, url, headers, ask.body, settings)
            target = answer.headers.get("Location", "")
            if answer.status not in _REDIRECTS or not target:
                return answer
            if ask.method not in ("GET", "HEAD"):
                return answer
            await answer.drain()
            url = self.target(url, target)
            if not self._ours(url):
                headers.pop("Authorization", None)
                settings = None
        raise Hopeless(f"redirects more than {self._limits.redirects} times")

    def target(self, base: URL, location: str) -> URL:
        """Where a `Location` leads; Hopeless for what must not be followed."""
        try:
            # Signed addresses must be sent exactly as they came.
            named = URL(location, encoded=True)
            url = base.join(named).with_fragment(None)
            if url.user is not None or url.password is not None:
                url = url.with_user(None)
            host = url.host if named.host or not named.scheme else None
        except ValueError:
            host = None
        if not host or url.scheme not in ("http", "https") or len(location) > 8192:
            raise Hopeless("redirects to something that is no web address")
        if base.scheme == "https" and url.scheme == "http" and not self._may_be_plain():
            raise Hopeless(f"redirects to {host} without encryption")
        return url

    def _may_be_plain(self) -> bool:
        return self.settings.insecure or self.settings.plain_http

    def _ours(self, url: URL) -> bool:
        return self._base is not None and url.origin() == self._base.origin()

    async def _url(self, ask: Ask) -> URL:
        base = await self.base()
        if "://" in ask.path:
            return URL(ask.path, encoded=True).extend_query(ask.query)
        url = base.joinpath("v2/", encoded=True).join(URL(ask.path)) if ask.path else base / "v2/"
        return url.with_query(ask.query) if ask.query else url

    async def base(self) -> URL:
        """The host's root; finds out whether an insecure host speaks TLS. Cut, Hopeless."""
        async with self._finding:
            if self._base is None:
                secure = URL(f"https://{self.host}/")
                plain = URL(f"http://{self.host}/")
                encrypted = not self.settings.plain_http and (
                    not self.settings.insecure or await self._speaks_tls(secure)
                )
                self._base = secure if encrypted else plain
        return self._base

    async def _speaks_tls(self, url: URL) -> bool:
        try:
            answer = await self._wire.send("GET", url / "v2/", {}, None, self.settings)
        except NoTls:
            return False
        except Cut:
            # Some servers close a connection that opens with a TLS greeting. Whether anybody is
            # there at all, the request itself will tell.
            return False
        await answer.drain()
        return True

    def unreachable(self, reference: str, reason: str, attempts: int = 1) -> RegistryUnreachable:
        """The error when no attempt was answered."""
        tried = f" (tried {attempts} times)" if attempts > 1 else ""
        error = RegistryUnreachable(self.registry, reference, self._named(reason) + tried)
        error.retryable = True
        return error

    def _named(self, reason: str) -> str:
        """With the host's name where that is not the registry's."""
        return reason if self.host == self.registry else f"{self.host}: {reason}"

    async def _unauthorized(self, reference: str) -> RegistryUnauthorized:
        credential = await self.authorizer.credential()
        login = f"skerry login {self.settings.name}".removesuffix(" docker.io")
        if credential:
            who = f" of {credential.username}" if credential.username else ""
            return RegistryUnauthorized(
                self.registry,
                reference,
                self._named(f"unauthorized: the credentials{who} are not accepted"),
                hint=f"log in again: {login}",
            )
        return RegistryUnauthorized(
            self.registry,
            reference,
            self._named("authentication required, or there is no such repository"),
            hint=f"try: {login}",
        )

    async def failure(self, answer: Answer, reference: str) -> Exception:
        """What an answer with an unwanted status means. Closes the answer.

        A `Cut` for 5xx, so that it is asked again; else a RegistryError.
        """
        ours = self._ours(answer.url)
        said = await _said(answer) if ours or answer.status == 429 else ""
        answer.close()
        status = answer.status
        reason = f"{said} (HTTP {status})" if said else f"HTTP {status}"
        reason = self._named(reason) if ours else f"{answer.url.host}, where it leads: {reason}"
        registry = self.registry
        if status == 429:
            return self._rate_limited(answer, reference, said)
        if status >= 500:
            return Cut(reason.removeprefix(f"{self.host}: "))
        if status == 401 and ours:
            return await self._unauthorized(reference)
        if status in (401, 403):
            login = f"skerry login {self.settings.name}".removesuffix(" docker.io")
            known = bool(await self.authorizer.credential())
            hint = "" if known else f"it may need a login: {login}"
            return RegistryDenied(registry, reference, f"access denied: {reason}", hint=hint)
        if status == 404:
            return RegistryNotFound(registry, reference, f"not found: {reason}")
        return RegistryProtocol(registry, reference, reason)

    def _rate_limited(self, answer: Answer, reference: str, said: str) -> RegistryRateLimited:
        left = quotas.time_left(answer.headers)
        allowed = quotas.describe(quotas.parse_rate_limit(answer.headers) or self.rate_limit)
        reason = "the registry's rate limit is reached" + (f" ({allowed})" if allowed else "")
        reason += f"; {quotas.duration(left)} left" if left is not None else ""
        reason += f": {said}" if said else ""
        hint = f"try again in {quotas.duration(left)}" if left is not None else "try again later"
        login = f"skerry login {self.settings.name}".removesuffix(" docker.io")
        return RegistryRateLimited(
            self.registry,
            reference,
            self._named(reason),
            hint=f"{hint}, or log in for a higher limit: {login}",
            retry_after=left,
        )


async def _said(answer: Answer) -> str:
    """The first error of the specification's error document, fit for a terminal; or nothing."""
    try:
        document = json.loads(await answer.read(MAX_ERROR))
        first = document["errors"][0]
        code, message = first.get("code", ""), first.get("message", "")
    except (Cut, TooMuch, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    texts = [text for text in (code, message) if isinstance(text, str) and text]
    plain = "".join(c if c.isprintable() else " " for c in ": ".join(texts))
    return plain[:300].strip()
