"""The shape of a machine: what its template depends on. Pure."""

from skerry.base.light import NamedTuple

MIB = 1 << 20
GUEST_OVERHEAD = 96 * MIB
"""What the guest's kernel and agent need beside the container's limit."""
_SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
DEFAULT_MEMORY = 512 * MIB
MOST_CPUS = 64
_PLACES = 8
MOST_MEMORY = _SIZES[-1] * MIB


class Shape(NamedTuple):
    """Memory in bytes, virtual processors."""

    memory: int
    cpus: int

    @property
    def places(self) -> int:
        """How many processors it can have once more have been plugged in."""
        return max(self.cpus, _PLACES)


def shape_for(memory_limit: int, cpus: float, host_cpus: int) -> Shape:
    """The machine for a container's limits; 0 is no limit.

    Memory is rounded up to a few sizes, so that few templates serve many limits: the guest's own
    control group holds the container to its exact limit.
    """
    wanted = memory_limit + GUEST_OVERHEAD if memory_limit > 0 else DEFAULT_MEMORY
    size = next((size for size in _SIZES if size * MIB >= wanted), _SIZES[-1]) * MIB
    count = -int(-cpus // 1) if cpus > 0 else 1
    return Shape(size, max(1, min(count, host_cpus, MOST_CPUS)))
