"""Our own kernel tests once more, in a guest whose control groups are version 2 alone.

Any other test file can be tried there by hand: `python -m tests.kernel.vm.guest FILE...`.

The guest has Debian's kernel (older than many hosts'), so these files also prove the ways that are
taken where newer calls are missing. It is booted once; each entry is a case here, and a failure
shows the guest's own tracebacks.
"""

import pytest
from tests.kernel.vm import guest

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(800),
]

FILES = (
    "tests/kernel/test_cgroups_group.py",
    "tests/kernel/test_cgroups_unified.py",
    "tests/kernel/test_bpf_devices.py",
    "tests/kernel/test_kvm_probe.py",
    "tests/kernel/test_host_probe.py",
    "tests/kernel/test_overlay.py",
    "tests/kernel/test_runtime_limits.py",
    "tests/kernel/test_driver.py::TestContainers::test_output_exit_code_and_log",
    "tests/kernel/test_driver.py::TestContainers::test_exec_is_behind_the_same_wall",
    "tests/kernel/test_driver.py::TestContainers::test_pause_and_resume",
    "tests/kernel/test_driver.py::TestContainers::test_stats_and_update",
    "tests/kernel/test_driver.py::TestContainers::test_out_of_memory_is_told",
    "tests/kernel/test_driver.py::TestContainers::test_a_task_outlives_the_engine",
    "tests/kernel/test_runtime_conformance.py::test_inside[devices are allowed by list]",
    "tests/kernel/test_engine_limits.py",
    "tests/security/test_default_container.py::test_sysfs_and_cgroups_cannot_be_written",
    "tests/security/test_default_container.py::test_a_disk_node_can_neither_be_opened_nor_mounted",
    "tests/security/test_exhaustion.py::test_a_fork_bomb_stops_at_the_limit",
    "tests/security/test_exhaustion.py::test_a_memory_bomb_kills_only_the_container",
)
MUST_RUN = {
    "tests/kernel/test_cgroups_unified.py::test_a_clone_starts_inside",
    "tests/kernel/test_cgroups_group.py::test_a_fork_bomb_is_killed",
    "tests/kernel/test_bpf_devices.py::test_the_default_list_is_enforced",
    "tests/kernel/test_kvm_probe.py::test_a_working_kvm_runs_the_guest",
    "tests/kernel/test_engine_limits.py::test_limits_from_the_command_line_to_the_kernel",
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
def test_in_the_guest(outcome: guest.Run, file: str) -> None:
    mine = [result for result in outcome.results if result.test.startswith(file)]
    failed = [f"{result.test}\n{result.text}" for result in mine if result.outcome == "failed"]
    assert not failed, "in the guest:\n" + "\n".join(failed)
    assert any(result.outcome == "passed" for result in mine), (mine, outcome.console)


def test_the_guest_ran_to_its_end(outcome: guest.Run) -> None:
    assert outcome.finished, outcome.console
    passed = {result.test for result in outcome.results if result.outcome == "passed"}
    assert passed >= MUST_RUN
