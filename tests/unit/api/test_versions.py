"""What clients of old versions see, and what theirs means."""

import aiohttp
import pytest

from skerry.api import versions
from skerry.api.routes.streams import details
from skerry.api.versions import Version
from skerry.engine.record import Record


@pytest.mark.parametrize(
    ("version", "given", "meant"),
    [
        ((1, 24), {"AutoRemove": True}, {"IpcMode": "shareable"}),
        ((1, 39), {"IpcMode": "none", "AutoRemove": True}, {"IpcMode": "none", "AutoRemove": True}),
        ((1, 40), {}, {}),
        ((1, 41), {"ConsoleSize": [1, 2], "KernelMemory": 9}, {"KernelMemory": 9}),
        ((1, 42), {"ConsoleSize": [1, 2], "KernelMemory": 9}, {"ConsoleSize": [1, 2]}),
    ],
)
def test_a_create_means_what_its_version_meant(
    version: tuple[int, int], given: dict[str, object], meant: dict[str, object]
) -> None:
    assert versions.create_host(Version(*version), given) == meant


async def test_what_went_is_there_for_those_who_look_for_it(http: aiohttp.ClientSession) -> None:
    fields = {
        "KernelMemory": (1, 42),
        "BridgeNfIptables": (1, 50),
        "BridgeNfIp6tables": (1, 50),
    }
    for number in range(24, 51):
        async with http.get(f"/v1.{number}/info") as answer:
            told = await answer.json()
        for name, until in fields.items():
            assert (name in told) is ((1, number) < until), (number, name)
        assert ("Expected" in told["RuncCommit"]) is (number < 49)
        assert ("AllowNondistributableArtifactsCIDRs" in told["RegistryConfig"]) is (number < 49)


async def test_networks_told_their_containers_until_1_28(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1.27/networks") as answer:
        assert all("Containers" in each for each in await answer.json())


@pytest.mark.parametrize(
    ("version", "word", "yes"),
    [
        ((1, 42), "images_have_empty_names", True),
        ((1, 43), "images_have_empty_names", False),
        ((1, 44), "images_have_containers", True),
        ((1, 45), "images_have_containers", False),
        ((1, 40), "filters_images_by_name", True),
        ((1, 41), "filters_images_by_name", False),
        ((1, 27), "sends_text_frames", True),
        ((1, 28), "sends_text_frames", False),
        ((1, 41), "websocket_takes_streams", False),
        ((1, 42), "websocket_takes_streams", True),
        ((1, 41), "stop_takes_a_signal", False),
        ((1, 42), "stop_takes_a_signal", True),
        ((1, 44), "aliases_have_the_id", True),
        ((1, 45), "aliases_have_the_id", False),
        ((1, 41), "tells_builder_size", True),
        ((1, 42), "tells_builder_size", False),
    ],
)
def test_where_it_changed(version: tuple[int, int], word: str, yes: bool) -> None:
    assert getattr(versions, word)(Version(*version)) is yes


def test_details_are_what_the_log_options_name() -> None:
    record = Record(
        id="1" * 64,
        name="n",
        image="i",
        image_id="sha256:1",
        created_at=0,
        config={"Env": ["A=1 2", "B=3"], "Labels": {"l": "v", "m": "w"}},
        host={"LogConfig": {"Config": {"labels": "l,absent", "env": "A"}}},
        network={},
        mounts=[],
    )
    assert details(record) == "A=1+2,l=v "
    record.host = {}
    assert details(record) == " "
