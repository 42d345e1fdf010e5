"""What can go wrong, by what the caller can do about it.

Every error carries a message that names what was tried, on what, and why it failed; the hint, what
to do about it, stands apart. Two families never share a type: `SkerryError` (a request or the
engine is at fault) and `GuestFault` (the program in the container is at fault).

The API maps a class to an HTTP status in one place (`skerry.api.errors`), the command lines to an
exit code (`exit_code`), both as Docker's.
"""


class SkerryError(Exception):
    """Base of all errors that skerry raises on purpose.

    `message` is one line, `hint` what the user can do (may be empty).
    """

    exit_code = 125

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InvalidInput(SkerryError):
    """The request itself cannot be meant: malformed, out of range, contradictory. HTTP 400."""


class LimitExceeded(InvalidInput):
    """Input that is well-formed but larger or deeper than the reader accepts. HTTP 400."""


class DigestMismatch(InvalidInput):
    """Bytes whose digest or size is not the declared one. HTTP 400."""


class NotFound(SkerryError):
    """No such container, image, path. HTTP 404."""


class Conflict(SkerryError):
    """The object's state forbids it now: name taken, container running. HTTP 409."""


class NotModified(SkerryError):
    """Already in the wanted state: started, stopped. HTTP 304."""


class Forbidden(SkerryError):
    """A policy says no. HTTP 403."""


class Unsupported(SkerryError):
    """Neither this host nor this version can do it. HTTP 501."""


class Unavailable(SkerryError):
    """The engine, the keeper or a peer cannot be reached now. HTTP 503."""


class SystemFault(SkerryError):
    """The host refused an operation that should have worked. HTTP 500."""


class KernelFault(SystemFault):
    """A system call failed. `errno` is kept; the message names the call and the object."""

    def __init__(self, action: str, errno: int, *, hint: str = "") -> None:
        import os

        # Clients look for Go's words, which are small letters, to choose their exit code.
        super().__init__(f"{action}: {os.strerror(errno).lower()}", hint=hint)
        self.action = action
        self.errno = errno


class RegistryError(SkerryError):
    """An image registry did not do what it was asked. HTTP 500.

    `registry` is its name in references, `reference` what was asked for (`repository:tag`,
    `repository@digest`, `repository` or empty), `reason` why it failed; `message` has all three.
    """

    def __init__(self, registry: str, reference: str, reason: str, *, hint: str = "") -> None:
        what = f"{registry}/{reference}" if reference else registry
        super().__init__(f"{what}: {reason}", hint=hint)
        self.registry = registry
        self.reference = reference
        self.reason = reason
        self.retryable = False
        """Whether the same request may go well a moment later: a cut connection, a 5xx."""


class RegistryUnauthorized(RegistryError):
    """Credentials are missing or were not accepted. HTTP 401."""


class RegistryDenied(RegistryError, Forbidden):
    """The credentials are good, this is not allowed with them. HTTP 403."""


class RegistryNotFound(RegistryError, NotFound):
    """No such repository, tag, manifest or blob (or the registry does not admit it). HTTP 404."""


class RegistryUnreachable(RegistryError, Unavailable):
    """No answer, no connection, no trust in its certificate, or 5xx after all retries. HTTP 503."""


class RegistryRateLimited(RegistryError):
    """The registry wants fewer requests. HTTP 429.

    `retry_after` is the time left in seconds, None when the registry does not say.
    """

    def __init__(
        self,
        registry: str,
        reference: str,
        reason: str,
        *,
        hint: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(registry, reference, reason, hint=hint)
        self.retry_after = retry_after


class RegistryMismatch(RegistryError, DigestMismatch):
    """What came is not what was asked for: wrong digest, size or media type. HTTP 400."""


class RegistryLimit(RegistryError, LimitExceeded):
    """The answer is larger, deeper or slower than is accepted. HTTP 400."""


class RegistryProtocol(RegistryError):
    """An answer that breaks the specification or leads where nobody should follow. HTTP 500."""


class GuestFault(Exception):
    """The guest program's fault: shown to the user with the exit code that Docker gives it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class MachineFault(GuestFault):
    """What runs in a machine does not keep to its part: it breaks the agent's protocol, says what
    makes no sense, has died, or does not answer. HTTP 502, exit code 125.

    `errno` is what its kernel refused with, 0 for anything else."""

    exit_code = 125
    errno = 0


class CommandFault(GuestFault):
    """A command in a sandbox went another way than its caller had asked for.

    `stdout` and `stderr` are what it had written by then, as far as the caller collects it.
    """

    stdout: bytes = b""
    stderr: bytes = b""


class TimedOut(CommandFault):
    """The program did not end in the time it was given, and was killed. Exit code 124, as
    timeout(1)."""

    exit_code = 124


class OutputExceeded(CommandFault):
    """The program wrote more than its caller takes, and was killed."""


class SandboxEnded(CommandFault):
    """The container or machine came to its end while the command ran in it, and so did that.
    Exit code 137, as of a program that was killed."""

    exit_code = 137


class InputRefused(CommandFault):
    """The program has ended, or has closed its input, and takes no more."""


class CommandFailed(CommandFault):
    """The program ended with another exit code than 0, and the caller had asked for 0."""

    def __init__(self, message: str, *, exit_code: int = 1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class CommandNotFound(GuestFault):
    """The image holds no such executable. Exit code 127."""

    exit_code = 127


class CommandNotExecutable(GuestFault):
    """The file exists and cannot be executed. Exit code 126."""

    exit_code = 126
