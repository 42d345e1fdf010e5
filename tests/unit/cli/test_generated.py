"""What is made from the tables is true: the manual, and completions that real shells run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from skerry.cli.completions import ASKED, WORDS, script
from skerry.cli.reference import reference
from skerry.cli.registry import COMMANDS, GROUPS, every

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_manual_is_made_from_the_code() -> None:
    assert (REPOSITORY / "docs/cli.md").read_text() == reference(), "run `make docs`"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_made_from_the_code(shell: str) -> None:
    kept = (REPOSITORY / f"contrib/completion/skerry.{shell}").read_text()
    assert kept == script(shell), "run `make docs`"


def test_every_kind_of_value_is_known() -> None:
    known = {*WORDS, *ASKED, "", "files", "folders", "copy", "none", "containers,images"}
    for path, command in every():
        kinds = {option.complete for option in command.options} | set(command.complete.split())
        assert kinds <= known, path


def complete(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    fake = tmp_path / "skerry"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = __names ] || exit 9\n'
        "case $2 in running) echo web;; containers) echo web; echo old;; "
        "images) echo img:1;; esac\n"
    )
    fake.chmod(0o755)
    quoted = " ".join(f"'{word}'" for word in ("skerry", *words))
    program = (
        f"{script('bash')}\ncompopt() {{ :; }}\nCOMP_WORDS=({quoted})\nCOMP_CWORD={len(words)}\n"
        '_skerry\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["at"], ["attach"]),
        (["image", "ex"], ["exists"]),
        (["system", ""], ["df", "events", "info", "prune"]),
        (["run", "--memory-s"], ["--memory-swap", "--memory-swappiness"]),
        (["run", "-it", ""], ["img:1"]),
        (["run", "--pull", ""], ["always", "missing", "never"]),
        (["run", "--name", "x", "--restart", "un"], ["unless-stopped"]),
        (["stop", ""], ["web"]),
        (["rm", "-f", "web", "o"], ["old"]),
        (["container", "rm", "o"], ["old"]),
        (["cp", "w"], ["web:"]),
        (["inspect", ""], ["web", "old", "img:1"]),
        (["kill", "-s", "US"], ["USR1", "USR2"]),
        (["--host", "x", "ima"], ["images", "image"]),
        (["logs", "--tail", ""], []),
        (["vm", "sna"], ["snapshot"]),
        (["vm", "snapshot", "re"], ["restore"]),
    ],
)
def test_bash_offers(tmp_path: Path, words: list[str], offered: list[str]) -> None:
    assert complete(tmp_path, *words) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        assert all(f" {name}" in script(shell) or f"'{name}'" in script(shell) for name in COMMANDS)
        assert all(name in script(shell) for name in GROUPS)
        return
    path = REPOSITORY / f"contrib/completion/skerry.{shell}"
    subprocess.run([program, "-n", str(path)], check=True)
