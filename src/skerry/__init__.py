"""skerry: one engine for containers and virtual machines.

    from skerry import Sandbox

    with Sandbox("debian", isolation="vm") as box:
        print(box.exec("uname", "-r").text)

The names of the client are imported when first used: the engine and the command line pay nothing.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.base.errors import (
        CommandFailed,
        Conflict,
        GuestFault,
        InputRefused,
        InvalidInput,
        LimitExceeded,
        MachineFault,
        NotFound,
        OutputExceeded,
        SandboxEnded,
        SkerryError,
        TimedOut,
        Unavailable,
    )
    from skerry.sdk.aio_sandbox import AsyncCopies, AsyncProcess, AsyncSandbox
    from skerry.sdk.frames import STDERR, STDOUT
    from skerry.sdk.sandbox import Copies, Process, Sandbox
    from skerry.sdk.sandbox_words import Entry, Result, Snapshot

__all__ = [
    "STDERR",
    "STDOUT",
    "AsyncCopies",
    "AsyncProcess",
    "AsyncSandbox",
    "CommandFailed",
    "Conflict",
    "Copies",
    "Entry",
    "GuestFault",
    "InputRefused",
    "InvalidInput",
    "LimitExceeded",
    "MachineFault",
    "NotFound",
    "OutputExceeded",
    "Process",
    "Result",
    "Sandbox",
    "SandboxEnded",
    "SkerryError",
    "Snapshot",
    "TimedOut",
    "Unavailable",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.sdk"), name)
