"""What a container can use up: its own limits, not the host."""

import subprocess
import sys

import pytest
from bench.daemons import Skerry
from tests.kernel.building import Client
from tests.security.sandbox import Sandbox

pytestmark = pytest.mark.root

MIB = 1 << 20


def test_a_fork_bomb_stops_at_the_limit(sandbox: Sandbox) -> None:
    found = sandbox.probe(
        """
        import time
        count = 0
        try:
            for count in range(400):
                if os.fork() == 0:
                    time.sleep(100)
            tell([count, "unlimited"])
        except OSError as error:
            tell([count, errno.errorcode[error.errno]])
        """,
        host={"PidsLimit": 60},
    )
    assert found[1] == "EAGAIN"
    assert found[0] <= 60


def test_a_step_that_forks_without_end_is_ended(engine: Skerry, no_leaks: None) -> None:
    bomb = "FROM busybox\nRUN true\n RUN f() { while :; do (f); done; }; f 2> /dev/null\n"
    failed = Client(engine.socket).build(bomb, PidsLimit=60).error
    assert "was ended: for 10 seconds it has been at its limit of 60 processes" in failed["message"]
    assert "Dockerfile:3:2" in failed["hint"]
    assert "--pids-limit" in failed["hint"]
    assert (failed["code"], failed["step"]) == (137, "0.2")


def test_a_memory_bomb_kills_only_the_container(sandbox: Sandbox) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        name = sandbox.start(["/bin/sleep", "1000"])
        script = "x=x; while true; do x=$x$x$x; done"
        ran = sandbox.shell(script, host={"Memory": 48 * MIB, "MemorySwap": 48 * MIB})
        assert ran.code in (1, 2, 137), ran
        assert bystander.poll() is None
        assert sandbox.status(name) == "running"
    finally:
        bystander.kill()
        bystander.wait()


def test_the_kernels_memory_is_counted_too(sandbox: Sandbox) -> None:
    """Pipes filled to the brim live in the kernel and are charged to the container."""
    found = sandbox.run(
        ["/bin/sh", "-c", "dd if=/dev/zero of=/dev/shm/fill bs=1M count=60; exit $?"],
        host={"Memory": 32 * MIB, "MemorySwap": 32 * MIB},
    )
    assert found.code != 0


def test_file_systems_in_memory_have_an_end(sandbox: Sandbox) -> None:
    ran = sandbox.shell(
        "for d in /dev /dev/shm; do dd if=/dev/zero of=$d/fill bs=1M count=80 2>/dev/null; "
        "wc -c < $d/fill; rm $d/fill; done"
    )
    sizes = [int(word) for word in ran.out.split()]
    assert len(sizes) == 2
    assert max(sizes) <= 64 * MIB


def test_descriptors_end_at_the_limit(sandbox: Sandbox) -> None:
    found = sandbox.probe(
        """
        held = []
        try:
            while len(held) < 500:
                held.append(os.open("/", os.O_RDONLY))
        except OSError as error:
            tell([len(held), errno.errorcode[error.errno]])
        """,
        host={"Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 64}]},
    )
    assert found == [61, "EMFILE"]
