"""dockerode and the dev containers command line, from npm: `make clients` installs them."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.daemons import Skerry

pytestmark = [pytest.mark.root]
FOLDER = Path(__file__).parent / "npm"
MODULES = FOLDER / "node_modules"


@pytest.fixture(autouse=True)
def _installed() -> None:
    if not shutil.which("node") or not MODULES.is_dir():
        pytest.skip("needs node and the packages that `make clients` installs")


def run(engine: Skerry, *command: str) -> str:
    env = engine.environment() | {"DOCKER_SOCKET": engine.socket, "NODE_PATH": str(MODULES)}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dockerode(engine: Skerry) -> None:
    seen = json.loads(run(engine, "node", str(FOLDER / "dockerode.js")))
    assert seen == {
        "api": "1.50",
        "code": 3,
        "out": "through dockerode",
        "err": "err\n",
        "listed": 1,
        "driver": "bridge",
        "logs": True,
    }


@pytest.fixture
def devcontainer(own_engine: Skerry, tmp_path: Path) -> Callable[..., str]:
    """`devcontainer("exec", "id")` in a work space of its own."""
    workspace = tmp_path / f"space{os.getpid()}"
    (workspace / ".devcontainer").mkdir(parents=True)
    (workspace / "file").write_text("of the host")
    about = {
        "name": "skerry",
        "image": "busybox",
        "remoteUser": "root",
        "containerEnv": {"SET": "inside"},
        "mounts": ["source=devcontainer-cache,target=/cache,type=volume"],
        "postCreateCommand": "cp file /cache/copied",
    }
    (workspace / ".devcontainer/devcontainer.json").write_text(json.dumps(about))
    program = str(MODULES / ".bin/devcontainer")

    def call(verb: str, *words: str) -> str:
        return run(own_engine, program, verb, "--workspace-folder", str(workspace), *words)

    return call


def test_a_dev_container(own_engine: Skerry, devcontainer: Callable[..., str]) -> None:
    outcome = json.loads(devcontainer("up").splitlines()[-1])
    assert outcome["outcome"] == "success"
    script = 'cat /cache/copied; echo " $SET"; echo new > made'
    assert devcontainer("exec", "sh", "-c", script) == "of the host inside\n"
    own_engine.stop(signal.SIGKILL)
    own_engine.start()
    assert devcontainer("exec", "cat", "made") == "new\n"
    again = json.loads(devcontainer("up").splitlines()[-1])
    assert again["containerId"] == outcome["containerId"]
