"""Our own kernel tests once more, in a guest whose control groups are version 2 alone.

The guest has Debian's kernel (older than many hosts'), so these files also prove the ways that are
taken where newer calls are missing. It is booted once; each file is a case here, and a failure
shows the guest's own tracebacks.
"""

import subprocess
from pathlib import Path

import pytest
from tests.kernel.vm import guest

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

FILES = (
    "tests/kernel/test_cgroups_group.py",
    "tests/kernel/test_cgroups_unified.py",
    "tests/kernel/test_bpf_devices.py",
    "tests/kernel/test_kvm_probe.py",
    "tests/kernel/test_host_probe.py",
    "tests/kernel/test_runtime_limits.py",
)
MUST_RUN = {
    "tests/kernel/test_cgroups_unified.py::test_a_clone_starts_inside",
    "tests/kernel/test_cgroups_group.py::test_a_fork_bomb_is_killed",
    "tests/kernel/test_bpf_devices.py::test_the_default_list_is_enforced",
    "tests/kernel/test_kvm_probe.py::test_a_working_kvm_runs_the_guest",
}
"""What would prove nothing if it were skipped."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> guest.Run:
    """The run of all files in one guest."""
    try:
        return guest.run(FILES, tmp_path_factory.mktemp("guest"))
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("file", FILES)
def test_file(outcome: guest.Run, file: str) -> None:
    mine = [result for result in outcome.results if result.test.startswith(file)]
    failed = [f"{result.test}\n{result.text}" for result in mine if result.outcome == "failed"]
    assert not failed, "in the guest:\n" + "\n".join(failed)
    assert any(result.outcome == "passed" for result in mine), (mine, outcome.console)


def test_the_guest_ran_to_its_end(outcome: guest.Run) -> None:
    assert outcome.finished, outcome.console
    passed = {result.test for result in outcome.results if result.outcome == "passed"}
    assert passed >= MUST_RUN


def test_the_guest_leaves_no_process() -> None:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False)
    ours = str(Path("guest0") / "initramfs")
    assert not [line for line in listed.stdout.splitlines() if ours in line and "pytest" in line]
