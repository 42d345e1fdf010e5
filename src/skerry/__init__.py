"""skerry: one engine for containers and virtual machines.

    from skerry import Sandbox

    with Sandbox("debian", isolation="vm") as box:
        print(box.exec("uname", "-r").text)

The names of the client are imported when first used: the engine and the command line pay nothing.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.sdk.aio_sandbox import AsyncSandbox
    from skerry.sdk.sandbox import Sandbox

__all__ = ["AsyncSandbox", "Sandbox", "__version__"]


def __getattr__(name: str) -> object:
    if name not in ("AsyncSandbox", "Sandbox"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.sdk"), name)
