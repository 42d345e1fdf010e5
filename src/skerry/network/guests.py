"""The bridges' ports that lead to machines: an nftables table of the bridge family, there once
there was one. What comes in by them is kept off the host (`kernel.guest_filter`)."""

from collections.abc import Iterable

from skerry.base.errors import KernelFault, Unsupported
from skerry.network import firewall
from skerry.network.doors import Doors


class Guests:
    """Of one engine; used by the worker's thread only."""

    def __init__(self, root: str, doors: Doors) -> None:
        self._table = firewall.guests_of(root)
        self._doors = doors

    @property
    def _there(self) -> bool:
        return self._table in self._doors.filter.tables()

    def guard(self, ports: Iterable[str]) -> None:
        """Before there are links of these names; Unsupported when the kernel cannot."""
        elements = firewall.guest_elements(ports)
        if not elements:
            return
        try:
            if not self._there:
                self._doors.filter.commit(firewall.setup_guests(self._table, {}))
            self._doors.filter.commit(firewall.add(self._table, elements))
        except KernelFault as fault:
            raise Unsupported(
                f"a machine cannot be kept off the host here: {fault}",
                hint="modprobe nf_tables and nft_meta_bridge, or --network none",
            ) from None

    def release(self, ports: Iterable[str]) -> None:
        """The links have gone. Idempotent."""
        if elements := firewall.guest_elements(ports):
            self._doors.take_away(elements, self._table)

    def restore(self, ports: Iterable[str]) -> None:
        """Let it be exactly these, in one transaction."""
        elements = firewall.guest_elements(ports)
        if elements or self._there:
            self._doors.filter.commit(firewall.setup_guests(self._table, elements))

    def dismantle(self) -> None:
        """No machine is left."""
        if self._there:
            self._doors.filter.commit([self._table.delete()])
