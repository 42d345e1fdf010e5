"""A Python client of the engine's API. Holds no engine code.

    from skerry.sdk import Engine

    with Engine() as engine:
        container = engine.containers.start("busybox", "sleep 60", memory=64 << 20)
        print(container.exec("uname -r").stdout)
        container.remove(force=True)

`AsyncEngine` is the same over asyncio. Errors are the classes of `skerry.base.errors`. Names are
imported when first used, so that the command line pays for none of this.
"""

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
    from skerry.sdk.aio import AsyncContainer, AsyncEngine
    from skerry.sdk.aio_sandbox import AsyncCopies, AsyncProcess, AsyncSandbox
    from skerry.sdk.containers import Container, Finished
    from skerry.sdk.engine import Engine
    from skerry.sdk.frames import STDERR, STDOUT
    from skerry.sdk.images import Image
    from skerry.sdk.machines import Machine
    from skerry.sdk.sandbox import Copies, Process, Sandbox
    from skerry.sdk.sandbox_words import Entry, Result, Snapshot

__all__ = [
    "STDERR",
    "STDOUT",
    "AsyncContainer",
    "AsyncCopies",
    "AsyncEngine",
    "AsyncProcess",
    "AsyncSandbox",
    "CommandFailed",
    "Conflict",
    "Container",
    "Copies",
    "Engine",
    "Entry",
    "Finished",
    "GuestFault",
    "Image",
    "InputRefused",
    "InvalidInput",
    "LimitExceeded",
    "Machine",
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
]

_HOMES = {
    "CommandFailed": "skerry.base.errors",
    "Conflict": "skerry.base.errors",
    "GuestFault": "skerry.base.errors",
    "InputRefused": "skerry.base.errors",
    "InvalidInput": "skerry.base.errors",
    "LimitExceeded": "skerry.base.errors",
    "MachineFault": "skerry.base.errors",
    "NotFound": "skerry.base.errors",
    "OutputExceeded": "skerry.base.errors",
    "SkerryError": "skerry.base.errors",
    "TimedOut": "skerry.base.errors",
    "Unavailable": "skerry.base.errors",
    "AsyncContainer": "skerry.sdk.aio",
    "AsyncEngine": "skerry.sdk.aio",
    "AsyncCopies": "skerry.sdk.aio_sandbox",
    "AsyncProcess": "skerry.sdk.aio_sandbox",
    "AsyncSandbox": "skerry.sdk.aio_sandbox",
    "Container": "skerry.sdk.containers",
    "Finished": "skerry.sdk.containers",
    "Engine": "skerry.sdk.engine",
    "STDERR": "skerry.sdk.frames",
    "STDOUT": "skerry.sdk.frames",
    "Image": "skerry.sdk.images",
    "Machine": "skerry.sdk.machines",
    "Copies": "skerry.sdk.sandbox",
    "Process": "skerry.sdk.sandbox",
    "Sandbox": "skerry.sdk.sandbox",
    "SandboxEnded": "skerry.base.errors",
    "Entry": "skerry.sdk.sandbox_words",
    "Result": "skerry.sdk.sandbox_words",
    "Snapshot": "skerry.sdk.sandbox_words",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
