"""Base images: what was asked for is what the store is told, until nobody listens."""

import asyncio
import threading
from contextlib import aclosing
from typing import Any, cast

import pytest
from tests.unit.engine.conftest import IMAGE

from skerry.base.errors import InvalidInput
from skerry.engine.engine import Engine


class FakeBootstrap:
    """Notes its arguments; makes a Debian image once that is not wanted any more."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()
        self.given_up = threading.Event()

    def debian(self, suite: str, include: Any, *, progress: Any, wanted: Any, **more: Any) -> str:
        self.asked = (suite, include, more)
        progress("working")
        while wanted():
            threading.Event().wait(0.01)
        self.given_up.set()
        return IMAGE.id

    def busybox(self, *, tag: str, progress: Any) -> str:
        self.asked = (tag,)
        return IMAGE.id


@pytest.fixture
def made(engine: Engine) -> FakeBootstrap:
    fake = FakeBootstrap()
    cast(Any, engine.store).bootstrap = fake
    return fake


async def test_a_debian_image_is_given_up_with_its_listener(
    engine: Engine, made: FakeBootstrap
) -> None:
    options = {"mirror": "http://m/debian", "tag": "x:1", "key": "/k.asc"}
    lines = engine.images.bootstrap("debian:sid", include=("less",), **options)
    async with aclosing(cast(Any, lines)) as heard:
        assert await anext(heard) == {"status": "working"}
        assert made.asked == ("sid", ("less",), options)
    assert await asyncio.to_thread(made.given_up.wait, 30)


async def test_options_that_mean_nothing(engine: Engine, made: FakeBootstrap) -> None:
    for name, options in (
        ("busybox", {"mirror": "http://m"}),
        ("busybox", {"key": "/k"}),
        ("alpine:3.20", {"include": ("less",)}),
    ):
        with pytest.raises(InvalidInput, match="means nothing for "):
            engine.images.bootstrap(name, **cast(Any, options))
    told = [line async for line in engine.images.bootstrap("busybox", tag="b:1")]
    assert told[-1] == {"aux": {"ID": IMAGE.id}}
    assert made.asked == ("b:1",)
