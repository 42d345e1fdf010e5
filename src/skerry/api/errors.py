"""Errors as HTTP: one class, one status, Docker's body `{"message": …}`."""

from skerry.base import errors

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.NotModified, 304),
    (errors.RegistryUnauthorized, 401),
    (errors.RegistryRateLimited, 429),
    (errors.InvalidInput, 400),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unsupported, 501),
    (errors.Unavailable, 503),
    (errors.MachineFault, 502),
    # A command that the image does not hold is the request's fault, as Docker sees it.
    (errors.GuestFault, 400),
    (errors.SkerryError, 500),
)


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def message_of(error: Exception) -> str:
    """What the client is told: what went wrong and what to do, never a traceback."""
    if isinstance(error, errors.SkerryError | errors.GuestFault):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    reason = error.strerror if isinstance(error, OSError) else ""
    return f"internal error: {type(error).__name__}" + (f": {reason}" if reason else "")
