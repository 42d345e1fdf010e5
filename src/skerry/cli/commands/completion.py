"""`completion`: scripts for bash, zsh and fish."""

from __future__ import annotations

from skerry.base.errors import InvalidInput
from skerry.cli.context import Context, out
from skerry.cli.options import Command, Parsed

SHELLS = ("bash", "zsh", "fish")


def completion(context: Context, parsed: Parsed) -> int:
    """Print the script for a shell."""
    shell = parsed.arguments[0]
    if shell not in SHELLS:
        raise InvalidInput(f"no completion for {shell!r}", hint=f"choose {', '.join(SHELLS)}")
    from skerry.cli.completions import script

    out(script(shell), end="")
    return 0


COMMANDS = {
    "completion": Command(
        completion,
        "Print the completion script of a shell",
        "bash|zsh|fish",
        least=1,
        most=1,
        complete="shells",
        text="bash:  source <(skerry completion bash)\n"
        'zsh:   skerry completion zsh > "${fpath[1]}/_skerry"\n'
        "fish:  skerry completion fish | source",
    )
}
