"""Who we are to a registry: Docker's `config.json`, credential helpers, `X-Registry-Auth`.

Standard library only, and synchronous: a helper is a process that is waited for, so an event loop
calls `Credentials.get` in a thread.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from skerry.base import hosts
from skerry.base.errors import InvalidInput
from skerry.registry import docker_config, helpers
from skerry.registry.config import DOCKER_HUB

DOCKER_HUB_KEY: Final = "https://index.docker.io/v1/"
"""Docker Hub's name in `config.json` and in the API's auth objects."""
MAX_HEADER: Final = 64 << 10


class Credential(NamedTuple):
    """What is shown to a registry. All empty: nobody."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    """An OAuth2 refresh token, exchanged for access tokens."""
    registry_token: str = ""
    """A bearer token that is sent as it is."""

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    def __repr__(self) -> str:
        # A secret that is part of a repr ends in a log sooner or later.
        return f"Credential(username={self.username!r}, …)"


NOBODY: Final = Credential()


class Credentials:
    """Credentials by registry from one `config.json`; `given` wins over the file."""

    def __init__(self, path: str = "", given: Credential | None = None) -> None:
        """`path` of the file; empty for `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.

        With `given` (from `X-Registry-Auth`) the file is never read. Nothing is read here.
        """
        self.path = path or hosts.docker_config()
        self._given = given

    def get(self, registry: str) -> Credential:
        """For a registry's name (`docker.io`, `host:port`); an empty one when there is none.

        credHelpers before credsStore before auths. InvalidInput when the file cannot be read or a
        helper fails; a helper that knows nothing is no failure.
        """
        if self._given is not None:
            return self._given
        document = docker_config.read(self.path)
        helper = _helper(document, registry)
        if helper:
            for key in _keys(registry):
                found = helpers.get(helper, key)
                if found is not None:
                    return _from_helper(*found)
        return _from_auths(document.get("auths") or {}, registry, self.path)

    def registries(self) -> list[str]:
        """The registries that the file has something about."""
        document = docker_config.read(self.path)
        names = [*(document.get("auths") or {}), *(document.get("credHelpers") or {})]
        hosts = (_host(name) for name in names)
        return list(
            dict.fromkeys(DOCKER_HUB if host == "index.docker.io" else host for host in hosts)
        )

    def of_mirror(self) -> "Credentials":
        """The same file without what was given, which is for one registry and no mirror of it."""
        return self if self._given is None else Credentials("/", given=NOBODY)

    def store(self, registry: str, credential: Credential) -> str:
        """Write after a login; the place it went to (`config.json` path or the helper's name)."""
        key = next(_keys(registry))
        helper = _helper(docker_config.read(self.path), registry)
        if helper:
            username = helpers.TOKEN_USER if credential.identity_token else credential.username
            helpers.store(helper, key, username, credential.identity_token or credential.password)
        # With a helper an empty entry says that there is something to be asked for.
        entry = {} if helper else _to_entry(credential)

        def edit(document: dict[str, Any]) -> bool:
            auths = document.get("auths") or {}
            for other in _keys(registry):
                auths.pop(other, None)
            auths[key] = entry
            document["auths"] = auths
            return True

        docker_config.change(self.path, edit)
        return f"docker-credential-{helper}" if helper else self.path

    def erase(self, registry: str) -> bool:
        """Forget at a logout; whether there was anything."""
        helper = _helper(docker_config.read(self.path), registry)
        erased = False
        if helper:
            for key in _keys(registry):
                if helpers.get(helper, key) is not None:
                    erased |= helpers.erase(helper, key)

        def edit(document: dict[str, Any]) -> bool:
            auths = document.get("auths") or {}
            held = [key for key in _keys(registry) if key in auths]
            for key in held:
                del auths[key]
            return bool(held)

        return docker_config.change(self.path, edit) or erased


def anonymous() -> Credentials:
    """Nobody, everywhere."""
    return Credentials("/", given=NOBODY)


def decode_auth_header(value: str) -> Credential | None:
    """Docker's `X-Registry-Auth`: base64url JSON; None when it is empty or names nobody.

    InvalidInput when it is malformed or over 64 KiB.
    """
    if len(value) > MAX_HEADER:
        raise InvalidInput(f"X-Registry-Auth: more than {MAX_HEADER} bytes")
    if not value.strip():
        return None
    try:
        text = value.strip().rstrip("=")
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidInput("X-Registry-Auth: not JSON in base64url") from None
    if not isinstance(document, dict):
        raise InvalidInput("X-Registry-Auth: not a JSON object")
    return decode_auth_config(document) or None


def decode_auth_config(value: Mapping[str, object]) -> Credential:
    """The API's AuthConfig object: username, password, auth, identitytoken, registrytoken.

    InvalidInput when a field is no string or `auth` is not base64 of `user:password`.
    """
    fields = {key.lower(): each for key, each in value.items() if each is not None}
    known = ("username", "password", "auth", "identitytoken", "registrytoken")
    texts = {key: fields.get(key, "") for key in known}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise InvalidInput(f"authentication: {key} has to be a string")
    username, password, auth, identity, token = (str(texts[key]) for key in known)
    if auth and not username:
        username, password = _decode_basic(auth)
    return Credential(username, password, identity, token)


def server_key(registry: str) -> str:
    """A registry's name in `config.json`."""
    return next(_keys(registry))


def _keys(registry: str) -> Iterator[str]:
    """The names a registry may go by in `config.json`, the one we write first."""
    if registry == DOCKER_HUB:
        yield DOCKER_HUB_KEY
        yield from ("index.docker.io", "docker.io", "registry-1.docker.io")
        return
    yield registry


def _host(key: str) -> str:
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _helper(document: Mapping[str, Any], registry: str) -> str:
    for key in _keys(registry):
        name = (document.get("credHelpers") or {}).get(key)
        if isinstance(name, str) and name:
            return name
    return document.get("credsStore") or ""


def _from_helper(username: str, secret: str) -> Credential:
    if username == helpers.TOKEN_USER:
        return Credential(identity_token=secret)
    return Credential(username, secret)


def _from_auths(auths: Mapping[str, Any], registry: str, path: str) -> Credential:
    exact = [key for key in _keys(registry) if key in auths]
    # Older clients wrote URLs: `https://host:port/v2/`.
    loose = [key for key in auths if _host(key) in map(_host, _keys(registry))]
    for key in (*exact, *loose):
        entry = auths[key]
        if not isinstance(entry, dict):
            raise InvalidInput(f"{path}: auths.{key} has the wrong type")
        try:
            found = decode_auth_config(entry)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: auths.{key}: {error.message}") from None
        if found:
            return found
    return NOBODY


def _to_entry(credential: Credential) -> dict[str, str]:
    entry = {}
    if credential.username:
        secret = "" if credential.identity_token else credential.password
        pair = f"{credential.username}:{secret}".encode()
        entry["auth"] = base64.b64encode(pair).decode()
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    if credential.registry_token:
        entry["registrytoken"] = credential.registry_token
    return entry


def _decode_basic(auth: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(auth, validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidInput("authentication: auth is not base64") from None
    username, colon, password = text.partition(":")
    if not colon:
        raise InvalidInput("authentication: auth is not user:password")
    # Old clients padded with zero bytes.
    return username, password.rstrip("\0")
