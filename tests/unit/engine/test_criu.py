"""The probe of CRIU, against stand-ins for the program."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skerry.engine import criu

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make `criu` a shell script."""

    def put(script: str) -> None:
        program = tmp_path / "criu"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        criu.probe.cache_clear()

    yield put
    criu.probe.cache_clear()


def test_it_works(install: Install, tmp_path: Path) -> None:
    install(f'echo "$1" >> {tmp_path}/calls')
    assert criu.probe() == ""
    assert (tmp_path / "calls").read_text().split() == ["check", "dump", "restore"]


@pytest.mark.parametrize("step", ["check", "dump", "restore"])
def test_a_step_fails(install: Install, step: str) -> None:
    install(f'[ "$1" != {step} ] || {{ echo "Error (criu/vdso.c:381): vdso: no bounds"; exit 1; }}')
    assert criu.probe() == f"criu {step} fails: vdso: no bounds"


def test_it_says_nothing(install: Install) -> None:
    install("exit 3")
    assert criu.probe() == "criu check fails: exit code 3"


def test_it_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    criu.probe.cache_clear()
    assert criu.probe() == "criu is not installed"
    criu.probe.cache_clear()
