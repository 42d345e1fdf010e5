"""What ends a build, apart from the engine's own errors."""

from skerry.base.errors import Conflict, GuestFault


class Cancelled(Conflict):
    """Somebody else ended the build."""

    def __init__(self) -> None:
        super().__init__("the build was cancelled")


class StepFailed(GuestFault):
    """A program of a RUN ended with a status other than 0. `code` is that status."""

    def __init__(self, command: str, code: int, *, step: str, oom: bool = False) -> None:
        super().__init__(
            f"The command '{command}' returned a non-zero code: {code}",
            hint="it ran out of memory" if oom else "",
        )
        self.code = code
        self.step = step
        self.command = command
