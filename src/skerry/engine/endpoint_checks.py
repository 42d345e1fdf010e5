"""What a create asks of networks: checked before anything is made."""

from collections.abc import Mapping
from typing import Any

from skerry.base.errors import InvalidInput, Unsupported
from skerry.engine import endpoint_config, port_bindings
from skerry.engine.network_record import BRIDGE, HOST, NONE
from skerry.engine.networks import Networks
from skerry.engine.roster import Roster


class Checks:
    """They look at the networks and containers that there are, and make no more than `bridge`."""

    def __init__(self, networks: Networks, roster: Roster) -> None:
        self._networks = networks
        self._roster = roster

    async def check(
        self, config: Mapping[str, Any], host: dict[str, Any], given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """What a create asks for, checked and normalised: settings by the network's name, and
        warnings. NotFound for a network that does not exist."""
        wanted = port_bindings.wanted(config, host)
        port_bindings.exposed(config)
        mode = host.get("NetworkMode") or "default"
        if mode.startswith("container:") or mode in (HOST, NONE):
            if wanted and mode != NONE:
                kind = "host" if mode == HOST else "container"
                if kind == "container":
                    raise InvalidInput(
                        "conflicting options: port publishing and the container type network mode"
                    )
            return self._check_alone(mode, host, given), (
                ["Published ports are discarded when using host network mode"]
                if wanted and mode == HOST
                else []
            )
        if not await self._networks.possible():
            return await self._check_impossible(mode, host, given, bool(wanted))
        if mode in ("default", BRIDGE):
            await self._networks.default()
        result, warnings = endpoint_config.normalise(mode, given, config, host, self._networks.find)
        self._move_links(mode, host, result)
        return result, warnings

    def _check_alone(
        self, mode: str, host: Mapping[str, Any], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        if host.get("Links"):
            raise InvalidInput(
                "conflicting options: cannot use links with this network mode: " + mode
            )
        others = [name for name in given if name not in (mode, "default")]
        if others and mode.startswith("container:"):
            raise InvalidInput("container cannot be connected to network endpoints: " + others[0])
        if others:
            raise InvalidInput(
                f"conflicting options: cannot connect a {mode} container to {others[0]}"
            )
        return {mode: {}} if mode in (HOST, NONE) else {}

    async def _check_impossible(
        self, mode: str, host: Mapping[str, Any], given: Mapping[str, Any], publishes: bool
    ) -> tuple[dict[str, Any], list[str]]:
        if mode not in ("default", BRIDGE):
            self._networks.find(mode)
        try:
            await self._networks.need()
        except Unsupported as error:
            if publishes or host.get("Links"):
                raise Unsupported(
                    f"cannot publish ports or link containers: {error.message}",
                    hint="use --network host",
                ) from None
            return dict(given), [f"The container has no network but loopback: {error.message}"]
        raise AssertionError("possible and not possible")

    def _move_links(self, mode: str, host: dict[str, Any], settings: dict[str, Any]) -> None:
        """Links of a user's network are names in it; those of `bridge` stay where they are."""
        for text in host.get("Links") or ():
            reference, _, alias = text.partition(":")
            other = self._roster.find(reference.removeprefix("/"))
            name = alias or other.record.name
            if mode in ("default", BRIDGE):
                continue
            first = next(iter(settings))
            settings[first].setdefault("Links", []).append(f"{other.record.name}:{name}")
