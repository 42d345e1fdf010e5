"""`login`, `logout`: who we are to a registry, kept in Docker's `config.json` or a helper."""

from __future__ import annotations

import sys

from skerry.base.errors import InvalidInput, SkerryError
from skerry.base.references import DEFAULT_REGISTRY
from skerry.cli.context import Context, err, out, terminal
from skerry.cli.options import Command, Parsed, switch, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.registry.auth import Credential, Credentials

_LONGEST = 64 << 10


def registry_of(parsed: Parsed) -> str:
    """The registry's name; Docker Hub when none is given."""
    name = parsed.arguments[0] if parsed.arguments else DEFAULT_REGISTRY
    name = name.partition("://")[2] if "://" in name else name
    name = name.partition("/")[0]
    return DEFAULT_REGISTRY if name in ("index.docker.io", "registry-1.docker.io") else name


def login(context: Context, parsed: Parsed) -> int:
    """Have the engine try the credentials, then keep them."""
    from skerry.cli.registry_auth import auth_config
    from skerry.registry.auth import Credential, Credentials

    registry, credentials = registry_of(parsed), Credentials()
    given = _given(parsed, credentials, registry)
    body = auth_config(given, registry)
    answer = context.client.post("/auth", body) or {}
    token = answer.get("IdentityToken")
    if token:
        given = Credential(username=given.username, identity_token=str(token))
    place = credentials.store(registry, given)
    if place == credentials.path:
        err(f"The credentials are kept unencrypted in {place}.")
    out(str(answer.get("Status") or "Login Succeeded"))
    return 0


def _given(parsed: Parsed, credentials: Credentials, registry: str) -> Credential:
    from skerry.registry.auth import Credential

    username, password = parsed.text("username"), parsed.text("password")
    if "password" in parsed.given:
        if parsed.on("password-stdin"):
            raise InvalidInput("--password and --password-stdin are mutually exclusive")
        err("A password on a command line can be seen by others: use --password-stdin.")
    if parsed.on("password-stdin"):
        if not username:
            raise InvalidInput("Must provide --username with --password-stdin")
        password = _from_stdin()
    elif not username and not password:
        known = credentials.get(registry)
        if known:
            out(f"Authenticating with existing credentials... [Username: {known.username}]")
            return known
    if not (username and password) and not terminal(0):
        raise InvalidInput(
            "Cannot perform an interactive login from a non TTY device",
            hint="use --username and --password-stdin",
        )
    if not username:
        sys.stdout.write("Username: ")
        sys.stdout.flush()
        username = sys.stdin.readline().strip()
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
    if not username or not password:
        raise InvalidInput("username and password must not be empty")
    return Credential(username, password)


def _from_stdin() -> str:
    data = sys.stdin.buffer.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise InvalidInput(f"the password on standard input is longer than {_LONGEST} bytes")
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise InvalidInput("the password on standard input is not UTF-8") from None


def logout(context: Context, parsed: Parsed) -> int:
    """Forget the credentials; nothing is said to the registry."""
    from skerry.registry.auth import Credentials

    registry = registry_of(parsed)
    out(f"Removing login credentials for {registry}")
    try:
        erased = Credentials().erase(registry)
    except SkerryError as error:
        error.message = f"could not erase credentials: {error.message}"
        raise
    if not erased:
        out(f"Not logged in to {registry}")
    return 0


COMMANDS = {
    "login": Command(
        login,
        "Log in to a registry",
        "[SERVER]",
        (
            text("username", "User name", "NAME", "u", "none"),
            text("password", "Password; others can see it", "PASSWORD", "p", "none"),
            switch("password-stdin", "Read the password from standard input"),
        ),
        most=1,
    ),
    "logout": Command(logout, "Forget the login to a registry", "[SERVER]", most=1),
}
