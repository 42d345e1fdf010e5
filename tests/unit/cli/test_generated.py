"""What is made from the tables is true: the manual, and completions that real shells run."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from skerry.api.main import parser
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


OFFERED: list[tuple[list[str], list[str]]] = [
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
]
_BASH = """
compopt() { :; }
offer() {
  COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
  _skerry
  echo "== ${COMPREPLY[*]}"
}
"""
_ZSH = """
compadd() { shift; printf ' %s' $@ }
_files() { }
offer() {
  words=("$@") CURRENT=$#
  printf '=='; _skerry; echo
}
"""
_FISH = """
function offer
    echo == (complete -C "$argv" | string replace -r '\\t.*' '')
end
"""


@pytest.mark.parametrize(
    ("shell", "first"), [("bash", ["--norc"]), ("zsh", ["-f"]), ("fish", ["--no-config"])]
)
def test_shells_offer(tmp_path: Path, shell: str, first: list[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    fake = tmp_path / "skerry"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = __names ] || exit 9\n'
        "case $2 in running) echo web;; containers) echo web; echo old;; "
        "images) echo img:1;; esac\n"
    )
    fake.chmod(0o755)
    quoted = (" ".join(f"'{word}'" for word in ("skerry", *words)) for words, _ in OFFERED)
    calls = "".join(f"offer {line}\n" for line in quoted)
    # zsh's compdef is there once compinit has run.
    before = {"bash": "", "zsh": "compdef() { }\n", "fish": ""}[shell]
    frame = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    program = tmp_path / "program"
    program.write_text(f"{before}{script(shell)}{frame}{calls}")
    done = subprocess.run(
        [shell, *first, str(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
    )
    assert done.stderr == ""
    lines = [line.removeprefix("==").split() for line in done.stdout.splitlines()]
    # zsh itself leaves out what does not begin with the word.
    found = [
        {word for word in line if word.startswith(words[-1])}
        for (words, _), line in zip(OFFERED, lines, strict=True)
    ]
    assert found == [set(offered) for _, offered in OFFERED]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_script_has_every_command(shell: str) -> None:
    made = script(shell)
    assert all(f" {name}" in made or f"'{name}'" in made for name in COMMANDS)
    assert all(name in made for name in GROUPS)


def test_the_engines_options_are_all_told() -> None:
    told = {f"--{option.long}" for option in dict(every())["engine"].options}
    taken = set(re.findall(r"--[a-z-]+", parser().format_usage()))
    assert taken <= told, "the engine takes more"
    assert all(parser().format_help().count(option) for option in told)
