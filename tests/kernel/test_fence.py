"""Full machines' fences, in a network namespace of the test's own (`fenced`)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root]


@pytest.fixture(scope="module")
def told() -> Any:
    here = Path(__file__)
    done = subprocess.run(
        ["unshare", "-n", "-m", sys.executable, str(here.with_name("fenced.py"))],
        env=os.environ | {"PYTHONPATH": str(here.parents[2] / "src")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nat_reaches_the_world_and_neither_host_nor_containers(told: Any) -> None:
    assert told["mine"] == {
        "127.0.0.1:7000": "EPERM",
        "192.0.2.1:7000": "EPERM",
        "198.51.100.1:7000": "EPERM",
        "127.0.0.1:53": "OK",
        "192.0.2.9:7000": "EPERM",
        "198.51.100.9:7000": "OK",
        "203.0.113.9:7000": "OK",
    }
    # It is the fence that keeps it off, and it keeps nobody else off.
    assert set(told["other"].values()) == set(told["free"].values()) == {"OK"}
    assert told["left"] == ""


def test_a_guest_on_a_bridge_reaches_the_resolver_alone(told: Any) -> None:
    assert told["bridge"] == {
        "7000": ["free", "free"],
        "53": ["fenced", "free"],
        "67": ["fenced", "free"],
    }


def test_an_internal_network_has_no_way_to_the_host(told: Any) -> None:
    """A bridge without an address takes what is sent to its hardware address all the same."""
    assert told["internal"] == {"7000": ["free", "free"], "53": ["free"], "67": ["free"]}
