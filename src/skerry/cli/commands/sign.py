"""`sign` and `trust generate-key`. Private keys are used here and never sent to the engine."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput, SystemFault
from skerry.base.references import parse_reference
from skerry.base.settings import add_site_packages
from skerry.cli.context import Context, err, out
from skerry.cli.options import Command, Parsed, many, switch, text
from skerry.cli.registry_auth import headers_for
from skerry.sdk import wire
from skerry.sdk.client import query

PASSPHRASE = "SKERRY_KEY_PASSPHRASE"
_LIMIT = 64 << 10


def sign(context: Context, parsed: Parsed) -> int:
    """Sign what a registry has under a name."""
    import base64

    add_site_packages()
    from skerry.trust import keys, payload

    image, path = parsed.arguments[0], parsed.text("key")
    if not path:
        raise InvalidInput("sign: --key is missing", hint="skerry trust generate-key makes one")
    reference = parse_reference(image)
    private = keys.load_private(read_file(path), passphrase(), path)
    headers = headers_for(image)
    subject = ask(context, "GET", "/skerry/signatures/subject" + query(name=image), None, headers)
    digest = str(subject["Digest"])
    if reference.digest and digest != reference.digest:
        raise InvalidInput(f"sign {image}: the engine speaks of {digest:.80}")
    data = payload.encode_payload(reference, digest, _annotations(parsed.many("annotation")))
    body = {
        "Payload": base64.b64encode(data).decode(),
        "Signature": base64.b64encode(keys.sign(private, data)).decode(),
    }
    by_digest = str(reference._replace(tag="", digest=digest))
    ask(context, "POST", "/skerry/signatures" + query(name=by_digest), body, headers)
    out(by_digest)
    return 0


def generate_key(context: Context, parsed: Parsed) -> int:
    """A key pair in two new files."""
    add_site_packages()
    from skerry.trust import keys

    base = parsed.arguments[0] if parsed.arguments else "skerry"
    secret = passphrase()
    if parsed.on("encrypt") and not secret:
        import getpass

        secret = getpass.getpass("Passphrase: ").encode()
        if secret != getpass.getpass("Again: ").encode() or not secret:
            raise InvalidInput("trust generate-key: the passphrases differ or are empty")
    private, public = keys.generate(parsed.text("type", "ecdsa-p256"), secret or None)
    _new_file(f"{base}.key", private, 0o600)
    _new_file(f"{base}.pub", public, 0o644)
    err(f"{base}.key and {base}.pub written")
    return 0


def ask(
    context: Context, method: str, target: str, body: object, headers: dict[str, str]
) -> dict[str, object]:
    """One request with credentials; the answer's object."""
    data = None if body is None else wire.dumps(body).encode()
    headers = headers if body is None else {**headers, "Content-Type": "application/json"}
    response = context.client.open(method, target, data, headers)
    try:
        answer: dict[str, object] = wire.loads(response.read())
    finally:
        response.connection.close()
    return answer


def read_file(path: str) -> bytes:
    """A key file."""
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None


def passphrase() -> bytes | None:
    """From the environment; None when it holds none."""
    value = os.environb.get(PASSPHRASE.encode())
    return value or None


def _annotations(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise InvalidInput(f"sign: annotation {word!r:.80} is not KEY=VALUE")
        found[key] = value
    return found


def _new_file(path: str, data: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise SystemFault(f"write {path}: {error.strerror}", hint="name other files") from None
    with os.fdopen(fd, "wb") as file:
        file.write(data)


COMMANDS = {
    "sign": Command(
        sign,
        "Sign an image in a registry",
        "NAME[:TAG|@DIGEST]",
        (
            text("key", "The private key, a PEM file", "FILE", complete="files"),
            many("annotation", "Words to sign along", "KEY=VALUE", "a"),
        ),
        least=1,
        most=1,
        complete="images",
        text=f"An encrypted key's passphrase is read from {PASSPHRASE}.",
    ),
    "trust generate-key": Command(
        generate_key,
        "Make a key pair for signing",
        "[NAME]",
        (
            text("type", "ecdsa-p256, ecdsa-p384, ed25519 or rsa", "TYPE"),
            switch("encrypt", "Ask for a passphrase"),
        ),
        most=1,
        text=f"NAME.key and NAME.pub are written; {PASSPHRASE} may hold the passphrase.",
    ),
}
