"""`__names`: what completion scripts ask for. Never starts an engine, never complains."""

from __future__ import annotations

from skerry.base.errors import SkerryError
from skerry.cli.context import Context, out
from skerry.cli.options import Command, Parsed
from skerry.sdk.client import Client, query

_STATES = {
    "containers": (),
    "running": ("running", "paused", "restarting"),
    "stopped": ("created", "exited"),
    "paused": ("paused",),
}


def names(context: Context, parsed: Parsed) -> int:
    """Print the names of one kind, one a line."""
    kind = parsed.arguments[0]
    try:
        with Client(context.host, timeout=2) as client:
            out("".join(f"{name}\n" for name in _names(client, kind)), end="")
    except SkerryError:
        return 1
    return 0


def _names(client: Client, kind: str) -> list[str]:
    if kind in _STATES:
        filters = {"status": list(_STATES[kind])} if _STATES[kind] else None
        containers = client.get(f"/containers/json{query(all=True, filters=filters)}")
        return [each["Names"][0].lstrip("/") for each in containers if each.get("Names")]
    if kind == "images":
        tags = [tag for each in client.get("/images/json") for tag in each.get("RepoTags") or ()]
        short = [tag.removesuffix(":latest") for tag in tags if tag.endswith(":latest")]
        return [tag for tag in tags + short if not tag.startswith("<none>")]
    if kind == "volumes":
        return [each["Name"] for each in client.get("/volumes").get("Volumes") or ()]
    if kind == "networks":
        return [each["Name"] for each in client.get("/networks")]
    if kind == "machines":
        return [each["name"] for each in client.get("/skerry/vms/json")]
    return []


COMMANDS = {"__names": Command(names, "Names for completion", "KIND", least=1, most=1)}
