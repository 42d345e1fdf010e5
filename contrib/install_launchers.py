"""Write `skerry` and `skerry-runtime` into the environment's bin folder.

The scripts that pip writes go through `site`, which costs a command line tool 10 to 25 ms at each
start. These start the interpreter with -I -S -E and name the source folder themselves; a module
that needs third-party packages adds them by `skerry.base.settings.add_site_packages`.

`skerry` has an interpreter of its own, a link `lib/skerry/python` beside a `python._pth` that puts
the folder `start` (see there) at the front of the path, and runs a line that stands in the script's
first: that takes a millisecond less than reading and compiling a script. Where there is a compiler
the script lies beside that interpreter, and before it comes a program of cli/start.c.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

COMMANDS = {"skerry": "skerry.cli.start", "skerry-runtime": "skerry.runtime.main"}
ALONE = frozenset({"skerry.cli.start"})
"""Modules that need nothing around them: executed by their path, which takes a fifth of the time
that looking through the packages does."""
OPTIONS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-s")
LONGEST_SHEBANG = 255
"""Bytes of a first line that the kernel reads (BINPRM_BUF_SIZE of linux/binfmts.h, less one)."""


def shebang(python: Path) -> str:
    """The first line that starts `python`; by way of the shell when the kernel could not.

    The kernel cuts an interpreter's path at the first space. To Python the shell's line is a
    string of its own.
    """
    plain = f"#!{python} -ISE"
    if _fits(python, plain):
        return plain
    return f"#!/bin/sh\n'''exec' \"{python}\" -ISE \"$0\" \"$@\"\n' '''"


def alone(python: Path, module: str, source: Path) -> str:
    """A script that executes one file. Its first line does so by itself where that can be; for who
    names an interpreter, the same line follows."""
    path = source.joinpath(*module.split(".")).with_suffix(".py")
    line = (
        "from _frozen_importlib_external import SourceFileLoader as L;"
        f"exec(L('s',{str(path)!r}).get_code('s'))"
    )
    first = f"#!{python} -ISEc{line}"
    return f"{first if _fits(python, first) else shebang(python)}\n{line}\n"


def _fits(python: Path, line: str) -> bool:
    return " " not in str(python) and len(line.encode()) <= LONGEST_SHEBANG and line.isascii()


def launcher(template: str, python: Path, source: Path, name: str) -> str:
    """The text of one launcher."""
    module = COMMANDS[name]
    if module in ALONE:
        return alone(python, module, source)
    text = template.replace("@SHEBANG@", shebang(python)).replace("@SRC@", repr(str(source)))
    return text.replace("@MODULE@", module).replace("@NAME@", name)


def replace(path: Path, data: bytes) -> None:
    """Write a program, in one step."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.chmod(0o755)
    fresh.rename(path)


def quick_python(folder: Path, start: Path) -> Path:
    """The interpreter that `skerry` starts with, made in `folder`."""
    base = Path(sys.executable).resolve()
    words = [base, "-ISEc", "import sys; print(*sys.path, sep='\\n')"]
    asked = subprocess.run(words, check=True, capture_output=True, text=True)
    folder.mkdir(exist_ok=True)
    path = folder / "python"
    path.unlink(missing_ok=True)
    (folder / "python._pth").write_text(f"{start}\n{asked.stdout}")
    path.symlink_to(base)
    return path


def before(folder: Path, source: Path, script: Path) -> Path | None:
    """The compiled program that becomes `script` unless it can do without; None where there is no
    compiler, or one that fails."""
    sys.path.insert(1, str(source))
    from skerry.machine.compiled import compiler

    if not compiler() or '"' in str(script) or "\\" in str(script):
        return None
    path = folder / "before"
    given = (*OPTIONS, f'-DORDINARY="{script}"', str(source / "skerry/cli/start.c"))
    if subprocess.run([compiler(), *given, "-o", str(path)], check=False).returncode:
        return None
    return path


def main() -> None:
    """Write one launcher per command; replaces a file in one step, so a running shell is safe."""
    here = Path(__file__).resolve().parent
    template = (here / "launcher.in").read_text()
    bin_dir = Path(sysconfig.get_path("scripts"))
    source = here.parent / "src"
    quick = quick_python(bin_dir.parent / "lib" / "skerry", here / "start")
    # `pth` makes plain `.venv/bin/python -m skerry` and the tests find the same tree.
    Path(sysconfig.get_path("purelib"), "skerry.pth").write_text(f"{source}\n")
    for name, module in COMMANDS.items():
        python = quick if module in ALONE else bin_dir / "python"
        program = launcher(template, python, source, name).encode()
        if module in ALONE:
            script = quick.parent / name
            replace(script, program)
            if compiled := before(quick.parent, source, script):
                program = compiled.read_bytes()
        replace(bin_dir / name, program)
        sys.stdout.write(f"{bin_dir / name}\n")


if __name__ == "__main__":
    main()
