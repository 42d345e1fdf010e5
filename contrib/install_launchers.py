"""Write `skerry` and `skerry-runtime` into the environment's bin folder.

The scripts that pip writes go through `site`, which costs a command line tool 10 to 25 ms at each
start. These start the interpreter with -I -S -E and name the source folder themselves; a module
that needs third-party packages adds them by `skerry.base.settings.add_site_packages`.
"""

import sys
import sysconfig
from pathlib import Path

COMMANDS = {"skerry": "skerry.cli.main", "skerry-runtime": "skerry.runtime.main"}


def main() -> None:
    """Write one launcher per command; replaces a file in one step, so a running shell is safe."""
    here = Path(__file__).resolve().parent
    template = (here / "launcher.in").read_text()
    bin_dir = Path(sysconfig.get_path("scripts"))
    source = here.parent / "src"
    # `pth` makes plain `.venv/bin/python -m skerry` and the tests find the same tree.
    Path(sysconfig.get_path("purelib"), "skerry.pth").write_text(f"{source}\n")
    for name, module in COMMANDS.items():
        text = template.replace("@PYTHON@", str(bin_dir / "python"))
        text = text.replace("@SRC@", str(source))
        text = text.replace("@MODULE@", module).replace("@NAME@", name)
        fresh = bin_dir / f".{name}.new"
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.rename(bin_dir / name)
        sys.stdout.write(f"{bin_dir / name}\n")


if __name__ == "__main__":
    main()
