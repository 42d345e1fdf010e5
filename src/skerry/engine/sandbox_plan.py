"""A sandbox before it is made: addresses, names and ports of a container that is about to start."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from skerry.base.errors import Forbidden
from skerry.base.ids import new_id
from skerry.engine import endpoint_config, etc, network_record, port_bindings
from skerry.engine.network_record import Network
from skerry.engine.networks import Networks
from skerry.engine.record import Record
from skerry.engine.walls import VM, wall_of
from skerry.network import sandbox as sandboxes
from skerry.network.firewall import ROUTED
from skerry.network.ports import RELAYED, Wanted
from skerry.network.sandbox import Endpoint, Sandbox


class SandboxPlan:
    """Takes addresses; whoever does not use what it gave gives them back."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def sandbox(self, saved: Record, networks: Mapping[str, Network]) -> Sandbox:
        """Addresses and names for all endpoints. On an error every address is given back."""
        assert self._networks.fabric is not None
        endpoints: list[Endpoint] = []
        links: list[tuple[str, str, str]] = []
        try:
            for name, network in networks.items():
                settings = saved.network.get(name) or {}
                endpoints.append(self.endpoint(saved, network, settings, endpoints))
                for text in settings.get("Links") or ():
                    target, _, alias = text.partition(":")
                    links.append((network.id, alias or target, target.removeprefix("/")))
        except BaseException:
            for each in endpoints:
                self._networks.release(each)
            raise
        own = any(not network.is_default for network in networks.values())
        return Sandbox(
            container_id=saved.id,
            path=self._networks.fabric.pin(saved.id),
            endpoints=tuple(endpoints),
            resolver=own or not etc.has_servers(saved.host, self._networks.settings.dns),
            upstream=tuple(saved.host.get("Dns") or self._networks.settings.dns),
            links=tuple(links),
            guest=wall_of(saved.host) == VM,
        )

    def endpoint(
        self,
        saved: Record,
        network: Network,
        settings: Mapping[str, Any],
        others: Sequence[Endpoint],
    ) -> Endpoint:
        """One more place, beside the `others` that the sandbox has."""
        if network.config_only:
            raise Forbidden("cannot create endpoint on configuration-only network")
        config = settings.get("IPAMConfig") or {}
        ipv4 = self._networks.take(network, 4, config.get("IPv4Address", ""))
        try:
            ipv6 = self._networks.take(network, 6, config.get("IPv6Address", ""))
        except BaseException:
            self._networks.give_back(network.id, ipv4)
            raise
        gateway4, gateway6 = endpoint_config.gateways(network)
        id = new_id()
        interface = endpoint_config.free_interface(network, settings, others)
        link_local = [ipaddress.ip_address(each) for each in config.get("LinkLocalIPs") or ()]
        return Endpoint(
            id=id,
            network_id=network.id,
            network=network.name,
            interface=interface,
            outside=f"ve{id[:12]}" if network.driver == "bridge" else "",
            mac=settings.get("MacAddress") or endpoint_config.mac_of(ipv4, ipv6, id),
            ipv4=ipv4,
            ipv6=ipv6,
            gateway4=gateway4 if ipv4 else "",
            gateway6=gateway6 if ipv6 else "",
            priority=int(settings.get("GwPriority") or 0),
            names=endpoint_config.dns_names(saved, network, settings),
            sysctls=endpoint_config.sysctls(settings, interface),
            link_local=tuple(f"{each}/{16 if each.version == 4 else 64}" for each in link_local),
        )

    def ports(self, saved: Record, sandbox: Sandbox) -> list[Wanted]:
        """What to publish, and on which of its addresses."""
        result: list[Wanted] = []
        targets = {}
        for ipv6 in (False, True):
            endpoint = sandboxes.gateway_of(sandbox, ipv6=ipv6)
            network = self._networks.get(endpoint.network_id) if endpoint else None
            if network is not None and network.driver == "bridge" and not network.internal:
                targets[ipv6] = (endpoint, network)
        for binding in port_bindings.wanted(saved.config, saved.host):
            twin = False
            for ipv6, (endpoint, network) in targets.items():
                assert endpoint is not None
                address = endpoint.address6 if ipv6 else endpoint.address4
                if network.mode(6 if ipv6 else 4) == ROUTED:
                    if not binding.host_ip or (":" in binding.host_ip) == ipv6:
                        direct = _direct(binding, address, network)
                        result += [direct] if direct not in result else []
                    continue
                host_ip = binding.host_ip or self._default_address(network)
                unspecified = host_ip in ("", "0.0.0.0", "::")
                mixed = ":" in host_ip and not ipv6
                # A relay leads from IPv6 to a container that has none.
                leads = mixed and True not in targets and binding.protocol in RELAYED
                if host_ip and (":" in host_ip) != ipv6 and not leads:
                    continue
                result.append(
                    Wanted(
                        binding.name,
                        binding.protocol,
                        binding.port,
                        address,
                        "" if unspecified and not mixed else host_ip,
                        binding.low,
                        binding.high,
                        network.link,
                        twin,
                        bool(binding.host_ip) and unspecified and not mixed,
                    )
                )
                twin = True
        return result

    def _default_address(self, network: Network) -> str:
        given = network.options.get(network_record.HOST_BINDING, "")
        address = given if given != "0.0.0.0" else ""
        return address or self._networks.settings.publish_default_address


def _direct(binding: port_bindings.Binding, address: str, network: Network) -> Wanted:
    """To be reached by the container's own address; the host's part of the binding is ignored."""
    return Wanted(
        *(binding.name, binding.protocol, binding.port, address, "", 0, 0),
        bridge=network.link,
        direct=True,
    )
