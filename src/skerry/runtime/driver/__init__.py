"""The isolation driver that puts namespaces around a program (`engine.isolation.Driver`).

The driver plans in the engine, the spawner and the keepers execute; `skerry.runtime.keeper` tells
the whole story. What a driver knows in memory is only a cache: `recover` gets it back from a run
directory.
"""

from skerry.runtime.driver.driver import RuntimeDriver

__all__ = ["RuntimeDriver"]
