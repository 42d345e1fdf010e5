"""Who is called what in which network: the resolver's memory. Pure.

The engine tells it of sandboxes (which networks a container is in) and of endpoints (the names and
addresses of one container in one network); every message replaces what was known before.
"""

import random

from skerry.base.light import Any, NamedTuple


class Entry(NamedTuple):
    """An endpoint: its names in lower case, the first one for reverse look-ups."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]


class View(NamedTuple):
    """What one sandbox sees. `networks` maps id to name."""

    networks: dict[str, str]
    upstream: tuple[str, ...]
    path: str
    """Its namespace's pin, for `upstream` servers that only it can reach."""
    forwards: bool
    """False when it is in internal networks only."""
    links: tuple[tuple[str, str, str], ...]


class Zones:
    """All that is known."""

    def __init__(self) -> None:
        self.views: dict[str, View] = {}
        self._entries: dict[str, dict[str, Entry]] = {}
        """Network id to endpoint id to entry."""
        self._names: dict[str, dict[str, list[str]]] = {}
        """Network id to name to endpoint ids."""
        self._addresses: dict[str, dict[str, str]] = {}
        """Network id to address to endpoint id."""

    def become(self, other: "Zones") -> None:
        """Take over all that `other` knows."""
        self.views = other.views
        self._entries = other._entries
        self._names = other._names
        self._addresses = other._addresses

    def set_view(self, sandbox: str, data: dict[str, Any]) -> None:
        """What a sandbox sees from now on."""
        self.views[sandbox] = View(
            dict(data["networks"]),
            tuple(data["upstream"]),
            str(data["path"]),
            bool(data["forwards"]),
            tuple(
                (network, name.lower(), target.lower()) for network, name, target in data["links"]
            ),
        )

    def drop_view(self, sandbox: str) -> None:
        """The sandbox has gone."""
        self.views.pop(sandbox, None)

    def join(self, network: str, endpoint: str, names: list[str], addresses: list[str]) -> None:
        """An endpoint is there, or has changed."""
        self.leave(network, endpoint)
        entry = Entry(tuple(name.lower() for name in names), tuple(addresses))
        self._entries.setdefault(network, {})[endpoint] = entry
        by_name = self._names.setdefault(network, {})
        for name in dict.fromkeys(entry.names):
            by_name.setdefault(name, []).append(endpoint)
        for address in entry.addresses:
            self._addresses.setdefault(network, {})[address] = endpoint

    def leave(self, network: str, endpoint: str) -> None:
        """An endpoint has gone; nothing happens when it was not there."""
        entry = self._entries.get(network, {}).pop(endpoint, None)
        if entry is None:
            return
        by_name = self._names[network]
        for name in dict.fromkeys(entry.names):
            by_name[name].remove(endpoint)
            if not by_name[name]:
                del by_name[name]
        for address in entry.addresses:
            if self._addresses[network].get(address) == endpoint:
                del self._addresses[network][address]
        if not self._entries[network]:
            for table in (self._entries, self._names, self._addresses):
                table.pop(network, None)

    def find(self, sandbox: str, name: str) -> list[str] | None:
        """Addresses of a name as a sandbox sees it, in a fresh random order; None when nobody has
        the name."""
        view = self.views.get(sandbox)
        if view is None:
            return None
        for network, alias, target in view.links:
            if alias == name and (found := self._in(network, target)) is not None:
                return found
        for network, label in view.networks.items():
            suffix = f".{label.lower()}"
            for wanted in (name, name.removesuffix(suffix) if name.endswith(suffix) else ""):
                if wanted and (found := self._in(network, wanted)) is not None:
                    return found
        return None

    def _in(self, network: str, name: str) -> list[str] | None:
        endpoints = self._names.get(network, {}).get(name)
        if not endpoints:
            return None
        entries = self._entries[network]
        chosen = random.sample(endpoints, len(endpoints))
        return [address for each in chosen for address in entries[each].addresses]

    def reverse(self, sandbox: str, address: str) -> str:
        """`name.network` of an address in a sandbox's networks; empty when it is not there."""
        view = self.views.get(sandbox)
        for network, label in view.networks.items() if view else ():
            endpoint = self._addresses.get(network, {}).get(address)
            if endpoint and (names := self._entries[network][endpoint].names):
                return f"{names[0]}.{label}"
        return ""
