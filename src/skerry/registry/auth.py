"""Who we are to a registry: Docker's `config.json`, credential helpers, `X-Registry-Auth`.

Standard library only, and synchronous: a helper is a process that is waited for, so an event loop
calls `Credentials.get` in a thread.
"""

from typing import NamedTuple

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
"""Docker Hub's name in `config.json` and in the API's auth objects."""


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
        return f"Credential(username={self.username!r}, …)"


class Credentials:
    """Credentials by registry from one `config.json`; `given` wins over the file."""

    def __init__(self, path: str = "", given: Credential | None = None) -> None:
        """`path` of the file; empty for `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.

        With `given` (from `X-Registry-Auth`) the file is never read. Nothing is read here.
        """
        raise NotImplementedError

    def get(self, registry: str) -> Credential:
        """For a registry's name (`docker.io`, `host:port`); an empty one when there is none.

        credHelpers before credsStore before auths. InvalidInput when the file cannot be read or a
        helper fails; a helper that knows nothing is no failure.
        """
        raise NotImplementedError

    def store(self, registry: str, credential: Credential) -> str:
        """Write after a login; the place it went to (`config.json` path or the helper's name)."""
        raise NotImplementedError

    def erase(self, registry: str) -> bool:
        """Forget at a logout; whether there was anything."""
        raise NotImplementedError


def anonymous() -> Credentials:
    """Nobody, everywhere."""
    raise NotImplementedError


def decode_auth_header(value: str) -> Credential | None:
    """Docker's `X-Registry-Auth`: base64url JSON; None when it is empty or names nobody.

    InvalidInput when it is malformed or over 64 KiB.
    """
    raise NotImplementedError


def decode_auth_config(value: dict[str, object]) -> Credential:
    """The API's AuthConfig object: username, password, auth, identitytoken, registrytoken."""
    raise NotImplementedError
