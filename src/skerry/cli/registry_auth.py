"""What this user is to a registry, from Docker's `config.json`, for the engine's requests.

The file and the helpers belong to the user, so the command line reads them; the engine never does.
"""

from __future__ import annotations

from skerry.base.references import parse_reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.registry.auth import Credential


def headers_for(image: str) -> dict[str, str]:
    """`X-Registry-Auth` for the registry of a reference; nothing when there are no credentials."""
    from skerry.registry.auth import Credentials

    registry = parse_reference(image).registry
    credential = Credentials().get(registry)
    return {"X-Registry-Auth": encode(credential, registry)} if credential else {}


def auth_config(credential: Credential, registry: str) -> dict[str, str]:
    """The API's AuthConfig object."""
    from skerry.registry.auth import server_key

    fields = {
        "username": credential.username,
        "password": credential.password,
        "identitytoken": credential.identity_token,
        "registrytoken": credential.registry_token,
        "serveraddress": server_key(registry),
    }
    return {key: value for key, value in fields.items() if value}


def encode(credential: Credential, registry: str) -> str:
    """The header's value: base64url JSON."""
    import base64

    from skerry.sdk import wire

    return base64.urlsafe_b64encode(wire.dumps(auth_config(credential, registry)).encode()).decode()
