"""Docker's filters of networks. Pure."""

from collections.abc import Callable, Mapping

from skerry.base.errors import InvalidInput
from skerry.base.truths import FALSE, TRUE
from skerry.engine.filters import label_matches, search
from skerry.engine.network_record import PREDEFINED, Network

LIST = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
PRUNE = frozenset({"label", "label!", "until"})

_WORDS = {
    "type": frozenset({"builtin", "custom"}),
    "dangling": TRUE | FALSE,
}
"""What a filter takes, where that is not anything."""

Filters = Mapping[str, frozenset[str]]


def check(filters: Filters, known: frozenset[str]) -> None:
    """InvalidInput for a filter that is not known, or a word that it does not take."""
    for key, wanted in filters.items():
        if key not in known:
            raise InvalidInput(f"invalid filter '{key}'")
        for each in wanted - _WORDS.get(key, wanted):
            raise InvalidInput(f"invalid filter: '{key}'='{each:.40}'")


def lists(network: Network, filters: Filters, wanted_by: Callable[[Network], list[str]]) -> bool:
    """Whether it passes all. `wanted_by` names the containers that want it."""
    return all(_passes(network, key, wanted, wanted_by) for key, wanted in filters.items())


def _passes(
    network: Network,
    key: str,
    wanted: frozenset[str],
    wanted_by: Callable[[Network], list[str]],
) -> bool:
    builtin = network.name in PREDEFINED
    match key:
        case "name":
            return any(search(each, network.name) for each in wanted)
        case "id":
            return any(network.id.startswith(each) for each in wanted)
        case "driver":
            return network.driver in wanted
        case "label":
            return all(label_matches(network.labels, each) for each in wanted)
        case "scope":
            return "local" in wanted
        case "type":
            return ("builtin" if builtin else "custom") in wanted
        case _:
            dangling = not builtin and not wanted_by(network)
            return bool(wanted & (TRUE if dangling else FALSE))


def prunes(network: Network, filters: Filters) -> bool:
    """Whether a prune may remove it (label, label!, until as nanoseconds)."""
    labels = network.labels
    return (
        all(label_matches(labels, each) for each in filters.get("label", ()))
        and not any(label_matches(labels, each) for each in filters.get("label!", ()))
        and not any(network.created_at > int(each) for each in filters.get("until", ()))
    )
