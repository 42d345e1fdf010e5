"""Write `skerry` and `skerry-runtime` into the environment's bin folder.

The scripts that pip writes go through `site`, which costs a command line tool 10 to 25 ms at each
start. These start the interpreter with -I -S -E and name the source folder themselves; a module
that needs third-party packages adds them by `skerry.base.settings.add_site_packages`.
"""

import sys
import sysconfig
from pathlib import Path

COMMANDS = {"skerry": "skerry.cli.start", "skerry-runtime": "skerry.runtime.main"}
ALONE = frozenset({"skerry.cli.start"})
"""Modules that need nothing around them: executed by their path, which takes a fifth of the time
that looking through the packages does."""
LONGEST_SHEBANG = 255
"""Bytes of a first line that the kernel reads (BINPRM_BUF_SIZE of linux/binfmts.h, less one)."""


def shebang(python: Path) -> str:
    """The first line that starts `python`; by way of the shell when the kernel could not.

    The kernel cuts an interpreter's path at the first space. To Python the shell's line is a
    string of its own.
    """
    plain = f"#!{python} -ISE"
    if " " not in str(python) and len(plain.encode()) <= LONGEST_SHEBANG:
        return plain
    return f"#!/bin/sh\n'''exec' \"{python}\" -ISE \"$0\" \"$@\"\n' '''"


def entry(module: str, source: Path) -> str:
    """The lines that fetch a command's `entry`."""
    if module not in ALONE:
        return f"from {module} import entry"
    path = str(source.joinpath(*module.split(".")).with_suffix(".py"))
    lines = (
        "from _frozen_importlib_external import SourceFileLoader",
        f"scope = {{'__name__': {module!r}}}",
        f"exec(SourceFileLoader({module!r}, {path!r}).get_code({module!r}), scope)",
        "entry = scope['entry']",
    )
    return "\n    ".join(lines)


def launcher(template: str, python: Path, source: Path, name: str) -> str:
    """The text of one launcher."""
    text = template.replace("@SHEBANG@", shebang(python)).replace("@SRC@", repr(str(source)))
    return text.replace("@ENTRY@", entry(COMMANDS[name], source)).replace("@NAME@", name)


def main() -> None:
    """Write one launcher per command; replaces a file in one step, so a running shell is safe."""
    here = Path(__file__).resolve().parent
    template = (here / "launcher.in").read_text()
    bin_dir = Path(sysconfig.get_path("scripts"))
    source = here.parent / "src"
    # `pth` makes plain `.venv/bin/python -m skerry` and the tests find the same tree.
    Path(sysconfig.get_path("purelib"), "skerry.pth").write_text(f"{source}\n")
    for name in COMMANDS:
        fresh = bin_dir / f".{name}.new"
        fresh.write_text(launcher(template, bin_dir / "python", source, name))
        fresh.chmod(0o755)
        fresh.rename(bin_dir / name)
        sys.stdout.write(f"{bin_dir / name}\n")


if __name__ == "__main__":
    main()
