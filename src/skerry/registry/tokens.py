"""Authorization for one host: basic, or bearer tokens by Docker's token protocol.

Specification: distribution `docs/spec/auth/{token,oauth}.md`. The registry answers 401 with a
challenge that names a realm; the realm gives a token for a scope, to nobody, to a user with a
password, or in exchange for an identity token. A token is kept for as long as it is good, and tasks
that want the same scope wait for one request.

The realm is another host as a rule and gets the credentials that were given for this registry: that
is the protocol. It is never spoken to in the clear when the registry is not.
"""

import asyncio
import base64
import json
import re
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from yarl import URL

from skerry.base.errors import InvalidInput
from skerry.registry.auth import Credential, Credentials
from skerry.registry.challenges import Challenge, parse_challenges
from skerry.registry.wire import Answer, Hopeless, TooMuch, Wire

CLIENT_ID: Final = "skerry"
MAX_TOKEN_ANSWER: Final = 1 << 20
SHORTEST_LIFE: Final = 60
"""Seconds a token is good for when the realm does not say."""
LONGEST_LIFE: Final = 3600
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,262144}")
_SCOPES: Final = 16

Scopes = tuple[str, ...]
"""Such as `repository:library/busybox:pull`; sorted."""


class NotAccepted(Exception):
    """The credentials, or their absence, were not accepted."""


class TokenRefused(Exception):
    """The realm answered something else than a token; the answer is still open."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Authorizer:
    """What to send as `Authorization` to one host. Safe for many tasks of one event loop."""

    def __init__(self, wire: Wire, name: str, credentials: Credentials) -> None:
        self._wire = wire
        self._name = name
        self._credentials = credentials
        self._credential: Credential | None = None
        self._loading = asyncio.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, tuple[str, float]] = {}
        self._locks: dict[Scopes, asyncio.Lock] = {}
        self.refresh_token = ""
        """The identity token that the realm gave last, if it was asked for one."""

    async def credential(self) -> Credential:
        """Ours for this host, read once; InvalidInput when the file or helper fails."""
        async with self._loading:
            if self._credential is None:
                # A credential helper is a process to be waited for.
                self._credential = await asyncio.to_thread(self._credentials.get, self._name)
        return self._credential

    async def header(self, scopes: Sequence[str]) -> str:
        """The value to send; empty before the host has asked for anything."""
        credential = await self.credential()
        if credential.registry_token:
            return f"Bearer {credential.registry_token}"
        if self._challenge is None:
            return ""
        if self._challenge.scheme == "basic":
            return _basic(credential)
        return f"Bearer {await self._token(self._challenge, _sorted(scopes))}"

    async def challenged(self, answer: Answer, scopes: Sequence[str], used: str) -> str:
        """What to send after a 401 to a request that had `used`; NotAccepted when nothing will do.

        InvalidInput for a malformed challenge; Cut, Hopeless, TokenRefused from the realm.
        """
        credential = await self.credential()
        challenges = parse_challenges(answer.headers.getall("WWW-Authenticate", ()))
        for challenge in challenges:
            if challenge.scheme == "bearer" and not credential.registry_token:
                wanted = challenge.parameters.get("scope", "").split()
                both = _sorted([*scopes, *wanted])
                self._challenge = challenge
                self._forget(used)
                found = f"Bearer {await self._token(challenge, both)}"
                # Later requests for our scopes need what was asked for here as well.
                self._tokens[_sorted(scopes)] = self._tokens[both]
                return found
            if challenge.scheme == "basic" and credential.username and not used:
                self._challenge = challenge
                return _basic(credential)
        raise NotAccepted

    def _forget(self, used: str) -> None:
        token = used.removeprefix("Bearer ")
        for scopes, (held, _) in list(self._tokens.items()):
            if held == token:
                del self._tokens[scopes]

    async def _token(self, challenge: Challenge, scopes: Scopes) -> str:
        async with self._locks.setdefault(scopes, asyncio.Lock()):
            token, until = self._tokens.get(scopes, ("", 0.0))
            if not token or time.monotonic() >= until:
                token, life = await self._fetch(challenge, scopes)
                # Renewed a little early: the clock of the registry is not ours.
                self._tokens[scopes] = token, time.monotonic() + life * 0.9
        return token

    async def _fetch(
        self, challenge: Challenge, scopes: Scopes, *, offline: bool = False
    ) -> tuple[str, int]:
        realm = self._realm(challenge)
        credential = await self.credential()
        service = challenge.parameters.get("service", "")
        if credential.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": CLIENT_ID,
                "refresh_token": credential.identity_token,
            }
            if scopes:
                form["scope"] = " ".join(scopes)
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            data = urlencode(form).encode()
            answer = await self._wire.send("POST", realm, kind, lambda: data)
        else:
            query = [("service", service)] if service else []
            query += [("scope", scope) for scope in scopes]
            headers = {}
            if credential.username:
                headers["Authorization"] = _basic(credential)
                query.append(("account", credential.username))
            if offline:
                query += [("offline_token", "true"), ("client_id", CLIENT_ID)]
            answer = await self._wire.send("GET", realm.extend_query(query), headers)
        return await self._accept(answer, realm)

    async def _accept(self, answer: Answer, realm: URL) -> tuple[str, int]:
        if answer.status in (401, 403):
            await answer.drain()
            raise NotAccepted
        if answer.status != 200:
            raise TokenRefused(answer)
        try:
            document = json.loads(await answer.read(MAX_TOKEN_ANSWER))
        except (ValueError, RecursionError):
            raise Hopeless(f"{realm.host} answered no JSON where a token was expected") from None
        except TooMuch:
            raise Hopeless(
                f"{realm.host} gave a token of more than {MAX_TOKEN_ANSWER} bytes"
            ) from None
        finally:
            answer.close()
        if not isinstance(document, dict):
            document = {}
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise Hopeless(f"{realm.host} gave no token")
        refresh = document.get("refresh_token")
        if isinstance(refresh, str) and _TOKEN.fullmatch(refresh):
            self.refresh_token = refresh
        return token, _life(document)

    def _realm(self, challenge: Challenge) -> URL:
        text = challenge.parameters.get("realm", "")
        try:
            realm = URL(text).with_user(None).with_fragment(None)
        except ValueError:
            realm = URL()
        if realm.scheme not in ("http", "https") or not realm.host or len(text) > 2048:
            raise Hopeless("names no usable realm to get a token from")
        settings = self._wire.registries.of(self._name)
        if realm.scheme == "http" and not (settings.insecure or settings.plain_http):
            raise Hopeless(f"wants a token fetched from {realm.host} without encryption")
        return realm

    async def login(self, answer: Answer) -> str:
        """After a 401 to `/v2/`: the header to try, with an identity token asked for."""
        credential = await self.credential()
        for challenge in parse_challenges(answer.headers.getall("WWW-Authenticate", ())):
            if challenge.scheme == "bearer" and credential and not credential.registry_token:
                self._challenge = challenge
                scopes = _sorted(challenge.parameters.get("scope", "").split())
                token, life = await self._fetch(challenge, scopes, offline=True)
                self._tokens[scopes] = token, time.monotonic() + life * 0.9
                return f"Bearer {token}"
            if challenge.scheme == "basic" and credential.username:
                self._challenge = challenge
                return _basic(credential)
        raise NotAccepted


def _basic(credential: Credential) -> str:
    if not credential.username:
        raise NotAccepted
    pair = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def _sorted(scopes: Sequence[str]) -> Scopes:
    found = tuple(sorted(set(scopes)))
    if len(found) > _SCOPES or sum(map(len, found)) > 4096:
        raise InvalidInput("WWW-Authenticate: more scopes than are accepted")
    return found


def _life(document: dict[str, Any]) -> int:
    """Seconds a token is good for, whatever the realm says within reason."""
    said = document.get("expires_in")
    if isinstance(said, bool) or not isinstance(said, int) or said <= 0:
        return SHORTEST_LIFE
    return min(said, LONGEST_LIFE)
