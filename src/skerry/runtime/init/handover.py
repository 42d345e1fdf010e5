"""What a forked child is handed, and how it speaks to its parent: one SOCK_SEQPACKET pair.

A message is a marshalled tuple, the word first. The child asks and waits for an answer, or tells:

    ids        asks the parent to write the id maps (the child is in a new user namespace)
    offsets    asks for the clock offsets and the OOM score, which the child may not write itself
    hooks      asks for the prestart and createRuntime hooks; the answer is the child's own pid
    listener   a seccomp notify descriptor's number for the parent to fetch
    created    tells that only the start is missing
    failed     tells why there is no container: class, message, hint, errno

End of file is the good news: the pair is close-on-exec, so the program was executed.
"""

import _socket
import marshal
import os

from skerry.base import errors
from skerry.base.errors import GuestFault, KernelFault, SkerryError, SystemFault
from skerry.base.light import Any, NamedTuple

MAX_MESSAGE = 32 << 10
_TEXT = 8 << 10


class Stdio(NamedTuple):
    """Descriptors that become 0, 1 and 2."""

    stdin: int
    stdout: int
    stderr: int


class Handover(NamedTuple):
    """Descriptors of a child; -1 for none."""

    stdio: Stdio
    console: int
    """Unix socket that takes the terminal's master side."""
    gate: int
    """One byte on it lets the program start; or, when it listens, a connection, which takes the
    place of `status` from then on."""
    status: "Status"
    trees: dict[str, int]
    """Detached mounts that the parent made with the host's rights, by name: `root`, `mount N`."""
    cgroup_tasks: tuple[int, ...] = ()
    """Open `tasks` files of cgroup v1; writing 0 moves the writer."""
    gate_listens: bool = False


class Status:
    """One end of the pair."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock

    def tell(self, *words: Any) -> None:
        """Send a message; the parent's absence ends the child."""
        try:
            self.sock.send(marshal.dumps(words))
        except OSError:
            os._exit(1)

    def ask(self, *words: Any) -> Any:
        """Send a message and wait for the answer; the parent's absence ends the child."""
        self.tell(*words)
        answer = self.hear()
        if answer is None:
            os._exit(1)
        return answer[0]

    def hear(self) -> tuple[Any, ...] | None:
        """The next message, None at the end."""
        try:
            data = self.sock.recv(MAX_MESSAGE)
        except ConnectionResetError:
            return None
        if not data:
            return None
        message = marshal.loads(data)
        return message if isinstance(message, tuple) else None

    def fail(self, error: BaseException) -> None:
        """Report why the child gives up."""
        if isinstance(error, KernelFault):
            row = ("KernelFault", error.action[:_TEXT], error.hint[:_TEXT], error.errno)
        elif isinstance(error, SkerryError | GuestFault):
            row = (type(error).__name__, error.message[:_TEXT], error.hint[:_TEXT], 0)
        elif isinstance(error, OSError):
            name = (
                f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
            )
            row = ("KernelFault", f"set up the container{name}"[:_TEXT], "", error.errno or 0)
        else:
            row = ("SystemFault", f"unexpected {type(error).__name__}: {error}"[:_TEXT], "", 0)
        self.tell("failed", *row)


def error_from(row: tuple[Any, ...]) -> Exception:
    """The error that `Status.fail` packed."""
    name, message, hint, number = row
    if name == "KernelFault":
        return KernelFault(message, number, hint=hint)
    kind = getattr(errors, name, SystemFault)
    try:
        made: Exception = kind(message, hint=hint)
    except TypeError:  # an error with a form of its own, which no container raises
        made = SystemFault(message, hint=hint)
    return made
