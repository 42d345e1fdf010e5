"""The bus: past and future events, filters, slow listeners."""

import asyncio
import time

import pytest

from skerry.engine import events
from skerry.engine.events import Event, Events, matches

EVENT = Event(
    "container", "health_status: healthy", "ab12", {"name": "web", "image": "i:1", "k": "v"}, 5
)


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({}, True),
        ({"type": {"container"}}, True),
        ({"type": {"image"}}, False),
        ({"event": {"health_status"}}, True),
        ({"event": {"die"}}, False),
        ({"container": {"web"}}, True),
        ({"container": {"ab"}}, True),
        ({"container": {"other"}}, False),
        ({"image": {"i"}}, True),
        ({"image": {"x"}}, False),
        ({"label": {"k=v"}}, True),
        ({"label": {"k=w"}}, False),
        ({"label": {"k"}, "type": {"container"}}, True),
        ({"network": {"n"}}, False),
        ({"nothing": {"x"}}, True),
        ({"container": {"we"}}, True),
        ({"daemon": {"x"}}, False),
    ],
)
def test_filters(filters: dict[str, set[str]], passes: bool) -> None:
    assert matches(EVENT, {key: frozenset(value) for key, value in filters.items()}) is passes


async def test_past_and_future() -> None:
    bus = Events()
    first = bus.emit("container", "create", "1", {})
    heard: list[str] = []

    async def listen() -> None:
        async for event in bus.listen({}, since=first.time):
            heard.append(event.action)
            if event.action == "die":
                return

    listening = asyncio.ensure_future(listen())
    await asyncio.sleep(0)
    bus.emit("container", "start", "1", {})
    bus.emit("container", "die", "1", {})
    await asyncio.wait_for(listening, 120)
    assert heard == ["create", "start", "die"]


async def test_an_end_in_the_past_ends_at_once() -> None:
    bus = Events()
    bus.emit("image", "tag", "1", {})
    found = [event.action async for event in bus.listen({}, since=0, until=time.time_ns())]
    assert found == ["tag"]


async def test_a_slow_listener_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUE", 10)
    bus = Events()
    listening = bus.listen({})
    first = asyncio.ensure_future(anext(listening))
    await asyncio.sleep(0)
    for number in range(30):
        bus.emit("container", "start", str(number), {})
    assert (await first).id == "0"
    rest = [event.id async for event in listening]
    assert rest == [str(number) for number in range(1, 10)]


def test_times_never_repeat() -> None:
    bus = Events()
    times = [bus.emit("container", "start", "1", {}).time for _ in range(100)]
    assert times == sorted(set(times))
