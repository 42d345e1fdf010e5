"""What ends a build, apart from the engine's own errors."""

from skerry.base.errors import Conflict, GuestFault


class Cancelled(Conflict):
    """Somebody else ended the build."""

    def __init__(self) -> None:
        super().__init__("the build was cancelled")


class StepFailed(GuestFault):
    """A program of a RUN ended with a status other than 0. `code` is that status, `explained`
    whether there is more to say."""

    def __init__(self, command: str, code: int, *, step: str, oom: bool = False) -> None:
        super().__init__(
            f"The command '{command}' returned a non-zero code: {code}",
            hint="it ran out of memory" if oom else "",
        )
        self.code = code
        self.step = step
        self.command = command
        self.explained = oom


class ForkedWithoutEnd(StepFailed):
    """A program of a RUN was ended because it stayed at its limit of processes and asked for more,
    `refused` times."""

    def __init__(self, command: str, limit: int, refused: int, seconds: int, *, step: str) -> None:
        super().__init__(command, 137, step=step)
        self.explained = True
        self.message = (
            f"The command '{command}' was ended: for {seconds} seconds it has been at its limit of "
            f"{limit} processes, and was refused another {refused} times"
        )
        self.hint = (
            "it seems to fork without end; if it does not, let it start fewer at a time, or give "
            "it more with `skerry build --pids-limit`"
        )
