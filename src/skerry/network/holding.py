"""What the network helper holds for sandboxes, and the names that it is told.

A helper that was started anew is told everything, so whoever speaks to it calls `ready` first.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from skerry.base.errors import Conflict, SystemFault, Unavailable
from skerry.network import namespaces, ports
from skerry.network.doors import Doors
from skerry.network.firewall import Published
from skerry.network.helper_link import HelperLink
from skerry.network.sandbox import Endpoint, Sandbox, Segment


class Holding:
    """The line to one engine's helper, whose socket is at `path`."""

    def __init__(self, doors: Doors, path: str) -> None:
        self._doors = doors
        self._path = path
        self._helper = HelperLink(path)
        self.told: Callable[[], Iterable[tuple[Sandbox, dict[str, Segment]]]] = list
        """Where to ask for all sandboxes when a fresh helper has to be told everything."""

    def ready(self) -> None:
        """Be connected to a helper that knows everything; Unavailable when none stays."""
        for _ in range(2):
            try:
                if self._helper.ensure():
                    self._tell_everything()
                return
            except Unavailable:
                continue
        raise Unavailable("the network helper ends as soon as it is started")

    def restore(self, sandboxes: Iterable[Sandbox]) -> None:
        """Find or start it after the engine was restarted, if anything needs it."""
        if not list(sandboxes) and not os.path.exists(self._path):
            return
        self._helper.ensure()
        self._tell_everything()

    def _tell_everything(self) -> None:
        """Bring the helper in line with all sandboxes."""
        wanted: dict[str, Callable[[], None]] = {}
        self._helper.tell("fresh")
        for sandbox, segments in self.told():
            self.tell_names(sandbox, segments)
            if sandbox.resolver:
                key = _resolver_key(sandbox)
                wanted[key] = partial(self._resolve, key, sandbox.path)
            for name, port in ports.held(sandbox.ports):
                key = _port_key(sandbox, name, port)
                wanted[key] = partial(self._reserve, key, port)
        self._helper.tell("settled")
        held = self._helper.held()
        self._helper.drop(held - wanted.keys())
        for key in sorted(wanted.keys() - held):
            # A port that somebody took while no helper lived stays theirs; ours is still forwarded.
            with contextlib.suppress(SystemFault, Conflict):
                wanted[key]()

    # Ports

    def keep(self, sandbox: Sandbox, reserved: ports.Reserved) -> None:
        """Let the helper have the sockets of a sandbox's ports."""
        for name, port, socks in reserved:
            self._keep(_port_key(sandbox, name, port), port, socks)
        # [::1] of ports that are published on 0.0.0.0; where somebody has it, it stays theirs.
        further = [each for each in ports.held(sandbox.ports) if each not in sandbox.ports]
        for name, port in further:
            with contextlib.suppress(SystemFault, Conflict):
                self._reserve(_port_key(sandbox, name, port), port)

    def _reserve(self, key: str, port: Published) -> None:
        self._keep(key, port, ports.reserve(port))

    def _keep(self, key: str, port: Published, socks: list[socket.socket]) -> None:
        if ports.relayed(port):
            self._hold(key, "relay", socks, target=[port.address, port.port])
        else:
            self._hold(key, "port", socks)

    def free(self, sandbox: Sandbox) -> None:
        """Give its ports back to the host; on return they are free."""
        self._helper.drop(_port_keys(sandbox))

    # Names

    def resolve(self, sandbox: Sandbox, socks: list[socket.socket]) -> None:
        """Answer on `namespaces.resolver_sockets` of the sandbox."""
        self._hold(_resolver_key(sandbox), "dns", socks)

    def serve(self, sandbox: Sandbox, segments: Mapping[str, Segment]) -> None:
        """Tell the helper a sandbox's names, and let it begin to answer inside if it has to."""
        self.ready()
        self.tell_names(sandbox, segments)
        key = _resolver_key(sandbox)
        if sandbox.resolver and key not in self._helper.held():
            self._resolve(key, sandbox.path)

    def _resolve(self, key: str, path: str) -> None:
        fd = namespaces.enter_path(path)
        try:
            with namespaces.inside(fd, self._doors.home):
                socks = list(namespaces.resolver_sockets(again=True))
        finally:
            os.close(fd)
        self._hold(key, "dns", socks)

    def tell_names(self, sandbox: Sandbox, segments: Mapping[str, Segment]) -> None:
        """What others call it, and what it may look up."""
        for each in sandbox.endpoints:
            if each.names:
                self._helper.tell(
                    "join",
                    network=each.network_id,
                    endpoint=each.id,
                    names=list(each.names),
                    addresses=[a for a in (each.address4, each.address6) if a],
                )
        if sandbox.resolver:
            internal = [segments[each.network_id].internal for each in sandbox.endpoints]
            self._helper.tell(
                "view",
                sandbox=sandbox.container_id,
                networks={each.network_id: each.network for each in sandbox.endpoints},
                upstream=list(sandbox.upstream),
                path=sandbox.path,
                forwards=not internal or not all(internal),
                links=[list(each) for each in sandbox.links],
            )

    def leave(self, endpoint: Endpoint) -> None:
        """Forget an endpoint's names."""
        self._helper.tell("leave", network=endpoint.network_id, endpoint=endpoint.id)

    # The end

    def forget(self, sandbox: Sandbox) -> None:
        """Let go of all that is a sandbox's."""
        keys = _port_keys(sandbox)
        if sandbox.resolver:
            keys.append(_resolver_key(sandbox))
        named = [each for each in sandbox.endpoints if each.names]
        if keys or named:
            with contextlib.suppress(Unavailable):
                self.ready()
                for each in named:
                    self.leave(each)
                self._helper.drop(keys)

    def _hold(self, key: str, kind: str, socks: list[socket.socket], **more: Any) -> None:
        try:
            if socks:
                fds = [sock.fileno() for sock in socks]
                self._helper.tell("hold", fds, key=key, kind=kind, **more)
        finally:
            for sock in socks:
                sock.close()

    def quit(self) -> None:
        """End the helper."""
        self._helper.quit()

    def close(self) -> None:
        """Hang up; the helper stays."""
        self._helper.close()


def _resolver_key(sandbox: Sandbox) -> str:
    return f"dns/{sandbox.container_id}"


def _port_keys(sandbox: Sandbox) -> list[str]:
    return [_port_key(sandbox, name, port) for name, port in ports.held(sandbox.ports)]


def _port_key(sandbox: Sandbox, name: str, port: Published) -> str:
    family = 6 if ":" in port.address else 4
    return f"port/{sandbox.container_id}/{name}/{port.host_ip}/{family}/{port.host_port}"
