"""What happened, told to whoever listens: a ring of the last events and a queue per listener.

Kinds and actions are Docker's (https://docs.docker.com/reference/cli/docker/system/events/).
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

RING = 1024
"""Events that `since` can reach back to."""
QUEUE = 8192
"""Events a listener may fall behind before it is cut off."""


class Event(NamedTuple):
    """`kind` did `action` to `id`; `time` in nanoseconds since the epoch."""

    kind: str
    action: str
    id: str
    attributes: dict[str, str]
    time: int


Filters = Mapping[str, frozenset[str]]


def matches(event: Event, filters: Filters) -> bool:
    """Whether an event passes Docker's event filters; values of one key are alternatives."""
    return all(_matches_one(event, key, wanted) for key, wanted in filters.items())


def _matches_one(event: Event, key: str, wanted: frozenset[str]) -> bool:
    match key:
        case "type":
            return event.kind in wanted
        case "event":
            return event.action in wanted or event.action.partition(":")[0] in wanted
        case "label":
            return all(_has_label(event.attributes, each) for each in wanted)
        case "scope":
            return "local" in wanted
        case "container" | "volume" | "network":
            return event.kind == key and _names(event, wanted)
        case "image":
            image = event.attributes.get("image", "")
            names = (
                {event.id, event.attributes.get("name", "")} if event.kind == "image" else {image}
            )
            names |= {name.rpartition(":")[0] for name in names if ":" in name}
            return not names.isdisjoint(wanted)
        case "daemon" | "plugin" | "service" | "node" | "secret" | "config":
            return event.kind == key and _names(event, wanted)
        case _:
            # Docker asks nothing of the keys that it does not know.
            return True


def _names(event: Event, wanted: frozenset[str]) -> bool:
    name = event.attributes.get("name", "")
    return any(name.startswith(each) or event.id.startswith(each) for each in wanted)


def _has_label(attributes: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in attributes and (not equals or attributes[key] == value)


class _Listener:
    """A bounded queue; `lost` when its reader was too slow."""

    def __init__(self) -> None:
        self.queue: deque[Event] = deque()
        self.ready = asyncio.Event()
        self.lost = False

    def offer(self, event: Event) -> None:
        if len(self.queue) >= QUEUE:
            self.lost = True
        else:
            self.queue.append(event)
        self.ready.set()


class Events:
    """The bus."""

    def __init__(self) -> None:
        self._ring: deque[Event] = deque(maxlen=RING)
        self._listeners: set[_Listener] = set()
        self._last = 0

    def emit(self, kind: str, action: str, id: str, attributes: dict[str, str]) -> Event:
        """Tell everybody. Times never repeat, so that `since` can resume exactly."""
        self._last = max(time.time_ns(), self._last + 1)
        event = Event(kind, action, id, attributes, self._last)
        self._ring.append(event)
        for listener in self._listeners:
            listener.offer(event)
        return event

    def past(self) -> list[Event]:
        """What the ring still holds, oldest first."""
        return list(self._ring)

    async def listen(
        self, filters: Filters, since: int | None = None, until: int | None = None
    ) -> AsyncIterator[Event]:
        """Past events after `since`, then new ones until `until` (both ns; None: now, never).

        A listener that falls too far behind is cut off, so that it cannot hold the engine's memory.
        """
        listener = _Listener()
        self._listeners.add(listener)
        try:
            if since is not None:
                for event in self.past():
                    due = event.time >= since and (until is None or event.time <= until)
                    if due and matches(event, filters):
                        yield event
            while until is None or time.time_ns() < until:
                while listener.queue:
                    event = listener.queue.popleft()
                    if matches(event, filters):
                        yield event
                if listener.lost:
                    return
                listener.ready.clear()
                left = None if until is None else max(0.0, (until - time.time_ns()) / 1e9)
                try:
                    await asyncio.wait_for(listener.ready.wait(), left)
                except TimeoutError:
                    return
        finally:
            self._listeners.discard(listener)
