"""`inspect`: everything the engine knows about containers and images."""

from __future__ import annotations

from skerry.base.errors import InvalidInput, NotFound, SkerryError
from skerry.cli.context import Context, out, report
from skerry.cli.options import Command, Option, Parsed, UsageError, switch, text
from skerry.sdk import wire
from skerry.sdk.client import Client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNPARSED = 64
_KINDS = ("container", "image", "volume", "network")


def inspect(context: Context, parsed: Parsed) -> int:
    """Containers first, then images, volumes and networks, unless --type says."""
    kind = parsed.text("type")
    if kind and kind not in _KINDS:
        raise InvalidInput(
            f"{kind!r} is not a type to inspect", hint="choose container, image, volume or network"
        )
    return _inspect(context, parsed, (kind,) if kind else _KINDS)


def inspect_container(context: Context, parsed: Parsed) -> int:
    """Containers only."""
    return _inspect(context, parsed, ("container",))


def inspect_image(context: Context, parsed: Parsed) -> int:
    """Images only."""
    return _inspect(context, parsed, ("image",))


def inspect_volume(context: Context, parsed: Parsed) -> int:
    """Volumes only."""
    return _inspect(context, parsed, ("volume",))


def inspect_network(context: Context, parsed: Parsed) -> int:
    """Networks only."""
    return _inspect(context, parsed, ("network",))


def _inspect(context: Context, parsed: Parsed, kinds: tuple[str, ...]) -> int:
    form, size, code = parsed.text("format"), parsed.on("size"), 0
    found = []
    template = None
    if form and form != "json":
        from skerry.cli import template as templates
        from skerry.cli.inspected import typed

        try:
            template = templates.parse(form)
        except templates.TemplateError as error:
            raise UsageError(error.message, exit_code=_UNPARSED) from None
    for name in parsed.arguments:
        try:
            value = _find(context.client, name, kinds, size=size)
            if template:
                out(template.render(typed(value)))
        except SkerryError as error:
            report(error)
            code = 1
        else:
            found.append(value)
    if form == "json":
        for value in found:
            out(wire.dumps(value))
    elif not template:
        out(wire.pretty(found))
    return code


def _find(client: Client, name: str, kinds: tuple[str, ...], *, size: bool) -> Any:
    for kind in kinds:
        target = f"/{kind}s/{quote(name)}"
        if kind in ("container", "image"):
            target += "/json"
        if kind == "container":
            target += query(size=True if size else None)
        try:
            return client.get(target)
        except NotFound:
            if len(kinds) == 1:
                raise
    raise NotFound(f"no such object: {name}")


def _command(run: Any, what: str, *extra: Option) -> Command:
    return Command(
        run,
        f"Show everything about {what}s",
        f"{what.upper()} [{what.upper()}...]",
        (text("format", "'json' or a Go template", "FORMAT", "f"), *extra),
        least=1,
        complete=f"{what}s" if what in _KINDS else "containers,images",
    )


_SIZE = switch("size", "Show a container's sizes", "s")
COMMANDS = {
    "inspect": _command(
        inspect,
        "object",
        _SIZE,
        text("type", "container, image, volume or network", "KIND", complete="kinds"),
    ),
    "container inspect": _command(inspect_container, "container", _SIZE),
    "image inspect": _command(inspect_image, "image"),
    "volume inspect": _command(inspect_volume, "volume"),
    "network inspect": _command(inspect_network, "network"),
}
