"""Lean modules stay lean: what forks containers, or must start in milliseconds, imports little.

Each module is imported by a fresh interpreter that runs as the launchers run it (`-ISE`): no
`site`, no environment, no user folder. See "Two kinds of module" in docs/architecture.md.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"

HEAVY = frozenset(
    {
        "dataclasses",
        "pathlib",
        "subprocess",
        "asyncio",
        "logging",
        "tempfile",
        "argparse",
        "inspect",
        "typing_extensions",
        "shutil",
        "urllib",
        "http",
        "email",
        "ssl",
        "threading",
        "concurrent",
        "multiprocessing",
        "sqlite3",
        "aiohttp",
        "msgspec",
        "cryptography",
        "zstandard",
        "isal",
        "yarl",
        "multidict",
    }
)
"""Each costs a command line milliseconds, or a forking process pages and threads."""

NOT_LEAN = frozenset(
    "skerry.base.oci_image skerry.base.platforms skerry.cli.reference skerry.runtime.driver".split()
)
"""`cli.reference` writes docs/cli.md and is never part of a command."""

SHOW = """
import json, sys
sys.path.insert(1, sys.argv[1])
before = set(sys.modules)
__import__(sys.argv[2])
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def lean_modules() -> list[str]:
    """Every module of the lean rooms, from the tree itself, so that a new one is covered."""
    found = []
    for room in ("base", "kernel", "runtime", "cli"):
        for path in sorted((SOURCE / "skerry" / room).rglob("*.py")):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            found.append(".".join(parts).removesuffix(".__init__"))
    found += ["skerry.machine.full.confine", "skerry.machine.full.keeper"]
    found += ["skerry.machine.full.serial", "skerry.machine.full.fence"]
    return [
        name
        for name in found
        if not any(name == other or name.startswith(f"{other}.") for other in NOT_LEAN)
    ]


def imported_by(module: str) -> set[str]:
    """What `import module` adds to sys.modules of a lean interpreter."""
    done = subprocess.run(
        [sys.executable, "-ISE", "-c", SHOW, str(SOURCE), module],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", lean_modules())
def test_lean_module_imports_nothing_heavy(module: str) -> None:
    heavy = {name for name in imported_by(module) if name.partition(".")[0] in HEAVY}
    assert not heavy, f"{module} must stay lean and imports {sorted(heavy)}"


def test_code_in_a_half_made_container_knows_kernel_and_base_only() -> None:
    ours = {name for name in imported_by("skerry.runtime.init") if name.startswith("skerry.")}
    allowed = ("skerry.base", "skerry.kernel", "skerry.runtime.init")
    beyond = {name for name in ours if not name.startswith(allowed)}
    assert beyond <= {"skerry.runtime"}, "only the package that holds it may come along"


def test_the_list_of_lean_modules_is_not_empty() -> None:
    assert {"skerry.base.errors", "skerry.kernel.syscalls"} <= set(lean_modules())


def test_the_engine_starts_without_what_it_seldom_needs() -> None:
    """Keys and YAML are for signatures and one archive format; each costs megabytes and time."""
    code = (
        "import sys, skerry.api.main;"
        "print([name for name in ('cryptography', 'yaml', 'bcrypt') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
