"""`skerry trust generate-key`, run as users run it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.trust import keys

SKERRY = Path(sys.executable).parent / "skerry"


def generate(folder: Path, *words: str, passphrase: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SKERRY_KEY_PASSPHRASE": passphrase}
    return subprocess.run(
        [SKERRY, "trust", "generate-key", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("passphrase", ["", "of many words"])
def test_a_pair_that_fits_and_is_kept_private(tmp_path: Path, passphrase: str) -> None:
    done = generate(tmp_path, "team", passphrase=passphrase)
    assert done.returncode == 0, done.stderr
    private = tmp_path / "team.key"
    assert private.stat().st_mode & 0o777 == 0o600
    assert (b"ENCRYPTED" in private.read_bytes()) == bool(passphrase)
    key = keys.load_private(private.read_bytes(), passphrase.encode() or None)
    assert keys.public_pem(key) == (tmp_path / "team.pub").read_bytes()


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "team.key").write_text("precious")
    done = generate(tmp_path, "team")
    assert done.returncode != 0 and "team.key: File exists" in done.stderr
    assert (tmp_path / "team.key").read_text() == "precious"


def test_unknown_kind(tmp_path: Path) -> None:
    done = generate(tmp_path, "--type", "dsa")
    assert done.returncode != 0 and "ecdsa-p256" in done.stderr and not list(tmp_path.iterdir())
