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
    from skerry.sdk.aio import AsyncContainer, AsyncEngine
    from skerry.sdk.aio_sandbox import AsyncSandbox
    from skerry.sdk.containers import Container, Finished
    from skerry.sdk.engine import Engine
    from skerry.sdk.images import Image
    from skerry.sdk.machines import Machine
    from skerry.sdk.sandbox import Sandbox

__all__ = [
    "AsyncContainer",
    "AsyncEngine",
    "AsyncSandbox",
    "Container",
    "Engine",
    "Finished",
    "Image",
    "Machine",
    "Sandbox",
]

_HOMES = {
    "AsyncContainer": "aio",
    "AsyncEngine": "aio",
    "AsyncSandbox": "aio_sandbox",
    "Container": "containers",
    "Engine": "engine",
    "Finished": "containers",
    "Image": "images",
    "Machine": "machines",
    "Sandbox": "sandbox",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
