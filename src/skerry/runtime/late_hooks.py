"""Hooks once the program runs and once it has ended, and the state that every hook is told."""

from skerry.base.errors import SkerryError
from skerry.base.oci_runtime import OCI_VERSION, State
from skerry.runtime.init import hooks
from skerry.runtime.steps import Hook, Plan


def run_poststop(plan: Plan) -> list[str]:
    """Run the poststop hooks, after the container is gone. A failure does not stop the others: what
    went wrong is returned, for a log."""
    return run_late_hooks("poststop", plan.hooks_of("poststop"), state_of(plan, 0, "stopped"))


def run_poststart(plan: Plan, pid: int) -> None:
    """Run the poststart hooks; SystemFault at the first that fails: the container must end."""
    hooks.run_all("poststart", plan.hooks_of("poststart"), dict(state_of(plan, pid, "running")))


def run_late_hooks(kind: str, late: tuple[Hook, ...], state: State) -> list[str]:
    """Run hooks whose failure is a warning (runtime.md, "Lifecycle"); the warnings."""
    warnings = []
    for index, hook in enumerate(late):
        try:
            hooks.run(kind, index, hook, dict(state))
        except SkerryError as error:
            warnings.append(error.message)
    return warnings


def state_of(plan: Plan, pid: int, status: str) -> State:
    """The container's state for its hooks; pid 0 is left out."""
    state: State = {"ociVersion": OCI_VERSION, "id": plan.id, "status": status}
    if pid:
        state["pid"] = pid
    state["bundle"] = plan.bundle
    state["annotations"] = dict(plan.annotations)
    return state
