"""Docker's `ps` filters: which containers a list holds."""

import re
from collections.abc import Mapping

from skerry.base.errors import InvalidInput, NotFound
from skerry.base.truths import FALSE, TRUE
from skerry.engine import endpoint_config, port_bindings
from skerry.engine.container import Container
from skerry.engine.record import Record
from skerry.engine.roster import Roster

Filters = Mapping[str, frozenset[str]]

STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTHS = ("none", "starting", "healthy", "unhealthy")
KNOWN = frozenset(
    """ancestor before exited expose health id is-task isolation label name network publish since
    status volume""".split()
)


def label_matches(labels: Mapping[str, str], wanted: str) -> bool:
    """`key` or `key=value`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def truth(key: str, filters: Filters, default: bool = False) -> bool:
    """A filter that is a truth value, once at most; InvalidInput otherwise."""
    values = filters.get(key, frozenset())
    if not values:
        return default
    if len(values) > 1 or not values <= TRUE | FALSE:
        raise InvalidInput(f"invalid filter '{key}=[{' '.join(sorted(values)):.60}]'")
    return values <= TRUE


def search(pattern: str, text: str) -> bool:
    """Go's regexp search where both languages agree; a plain comparison when it is no pattern."""
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return pattern in text


def health_of(container: Container) -> str:
    """Docker's word for a container's health."""
    return container.health.status if container.health is not None else "none"


def _has_port(saved: Record, key: str, text: str) -> bool:
    """`publish` and `expose`: `80`, `80/tcp` or a range."""
    first, last, protocol = _ports(text)
    if key == "expose":
        known = set(port_bindings.exposed(saved.config))
    else:
        known = {
            (each.port, each.protocol) for each in port_bindings.wanted(saved.config, saved.host)
        }
    return any(first <= port <= last and kind == protocol for port, kind in known)


def _ports(text: str) -> tuple[int, int, str]:
    """First and last number, and the protocol."""
    numbers, _, protocol = text.partition("/")
    low, _, high = numbers.partition("-")
    first, protocol = port_bindings.parse_port(f"{low}/{protocol}")
    return first, port_bindings.parse_port(high or low)[0], protocol


class Selection:
    """The filters of one request, checked, with what they need looked up once."""

    def __init__(self, filters: Filters, roster: Roster, images: Mapping[str, set[str]]) -> None:
        """`images` maps each wanted ancestor to the ids of the images that it means."""
        for key in filters:
            if key not in KNOWN:
                raise InvalidInput(f"invalid filter '{key}'")
        for status in filters.get("status", ()):
            if status not in STATUSES:
                raise InvalidInput(
                    f"invalid filter 'status={status}': invalid value for state ({status}): "
                    f"must be one of {', '.join(STATUSES)}"
                )
        self._filters = filters
        self._images = images
        for health in filters.get("health", ()):
            if health not in HEALTHS:
                raise InvalidInput(
                    f"invalid filter 'health={health:.60}': invalid value for health "
                    f"({health:.60}): must be one of {', '.join(HEALTHS)}"
                )
        self._task = truth("is-task", filters)
        for key in ("publish", "expose"):
            for text in filters.get(key, ()):
                _ports(text)
        self._codes = {self._number(text) for text in filters.get("exited", ())}
        self._before = min(self._times("before", roster), default=None)
        self._since = max(self._times("since", roster), default=None)

    @property
    def shows_stopped(self) -> bool:
        """Whether a filter asks for more than the running ones."""
        return any(key in self._filters for key in ("status", "exited", "before", "since"))

    def _number(self, text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise InvalidInput(
                f"invalid filter 'exited={text:.40}': strconv.Atoi: "
                f'parsing "{text:.40}": invalid syntax'
            ) from None

    def _times(self, key: str, roster: Roster) -> list[int]:
        result = []
        for reference in self._filters.get(key, ()):
            try:
                result.append(roster.find(reference).record.created_at)
            except NotFound:
                raise NotFound(f"No such container: {reference}") from None
        return result

    def accepts(self, container: Container) -> bool:
        """Whether the container passes every filter."""
        saved = container.record
        if self._before is not None and saved.created_at >= self._before:
            return False
        if self._since is not None and saved.created_at <= self._since:
            return False
        return all(
            self._one(container, key, wanted)
            for key, wanted in self._filters.items()
            if key not in ("before", "since")
        )

    def _one(self, container: Container, key: str, wanted: frozenset[str]) -> bool:
        saved = container.record
        match key:
            case "id":
                return any(search(each, saved.id) for each in wanted)
            case "name":
                return any(
                    search(each, saved.name) or search(each, f"/{saved.name}") for each in wanted
                )
            case "label":
                labels = saved.config.get("Labels") or {}
                return all(label_matches(labels, each) for each in wanted)
            case "status":
                return ("removing" if container.removing else saved.state.status) in wanted
            case "exited":
                return (
                    saved.ever_started
                    and saved.state.status == "exited"
                    and saved.state.exit_code in self._codes
                )
            case "health":
                return health_of(container) in wanted
            case "ancestor":
                return any(saved.image_id in self._images.get(each, ()) for each in wanted) or (
                    saved.image in wanted
                )
            case "volume":
                held = {
                    name for point in saved.mounts for name in (point.name, point.target) if name
                }
                return not held.isdisjoint(wanted)
            case "network":
                return not wanted.isdisjoint(endpoint_config.shown(saved))
            case "is-task":
                return not self._task
            case "isolation":
                return bool(wanted & {"default", "container", ""})
            case _:
                return any(_has_port(saved, key, each) for each in wanted)
