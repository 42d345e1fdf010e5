"""`top`: the processes of a container."""

from __future__ import annotations

from skerry.cli.context import Context, out
from skerry.cli.options import Command, Parsed
from skerry.cli.table import layout
from skerry.sdk.client import query, quote


def top(context: Context, parsed: Parsed) -> int:
    """As ps(1) lists them; the arguments are ps's."""
    name, *words = parsed.arguments
    target = f"/containers/{quote(name)}/top{query(ps_args=' '.join(words))}"
    answer = context.client.get(target)
    rows = [answer["Titles"], *(answer.get("Processes") or ())]
    out(layout(rows, minimum=20), end="")
    return 0


COMMANDS = {
    "top": Command(
        top,
        "Show the processes of a container",
        "CONTAINER [PS OPTION...]",
        least=1,
        intermixed=False,
        complete="running none",
    )
}
