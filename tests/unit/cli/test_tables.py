"""What lists look like."""

import time
from typing import Any

import pytest

from skerry.cli.commands import ps
from skerry.cli.commands.images import rows_of
from skerry.cli.commands.pull import split_tag
from skerry.cli.commands.stats import cpu_percent, used_memory
from skerry.cli.commands.stats import fields as stats_fields
from skerry.cli.commands.usage import account_rows, summary
from skerry.cli.table import Listing, ellipsis, layout

LISTING = Listing({"ID": "CONTAINER ID", "Names": "NAMES", "Size": "SIZE"}, "ID Names", "ID")
ITEMS = [
    {"ID": "a" * 12, "Names": "web", "Size": "1B", "labels": {"k": "v"}},
    {"ID": "b" * 12, "Names": "x", "Size": "2B", "labels": {}},
]


def methods(item: dict[str, Any]) -> Any:
    return {"Label": lambda name: item["labels"].get(name, "")}


def test_a_label_heads_its_column_by_its_last_words() -> None:
    text = LISTING.text([], form='table {{.Label "org.my-label_x"}}', methods=methods)
    assert text == "my label x\n"


def test_columns_are_as_wide_as_dockers() -> None:
    assert layout([["A", "NAME", "C"], ["1", "a-long-name", ""]]) == (
        "A         NAME          C\n1         a-long-name   \n"
    )


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("", f"CONTAINER ID   NAMES\n{'a' * 12}   web\n{'b' * 12}   x\n"),
        ("table", f"CONTAINER ID   NAMES\n{'a' * 12}   web\n{'b' * 12}   x\n"),
        ("{{.Names}}={{.Size}}", "web=1B\nx=2B\n"),
        ("table {{.Names}}\\t{{.Size}}", "NAMES     SIZE\nweb       1B\nx         2B\n"),
        ('table {{.Names}}\t{{.Label "k"}}', "NAMES     k\nweb       v\nx         \n"),
        ("table {{upper .Names}}", "NAMES\nWEB\nX\n"),
        ("json", '{"ID":"aaaaaaaaaaaa","Names":"web","Size":"1B"}\n'
                 '{"ID":"bbbbbbbbbbbb","Names":"x","Size":"2B"}\n'),
    ],
)  # fmt: skip
def test_formats(form: str, text: str) -> None:
    assert LISTING.text(ITEMS, form=form, methods=methods) == text


def test_quiet_prints_ids() -> None:
    assert LISTING.text(ITEMS, quiet=True) == f"{'a' * 12}\n{'b' * 12}\n"


def test_an_empty_table_has_a_heading() -> None:
    assert LISTING.text([]) == "CONTAINER ID   NAMES\n"
    assert LISTING.text([], form="{{.ID}}") == ""


def container(**more: Any) -> dict[str, Any]:
    return {
        "Id": "c" * 64,
        "Names": ["/web", "/other/alias"],
        "Image": "busybox",
        "Command": 'sh -c "echo a very long command"',
        "Created": time.time() - 3700,
        "State": "running",
        "Status": "Up 3 seconds",
        "Labels": {"a": "1", "b": "2"},
        "Mounts": [
            {"Source": "/a/very/long/source", "Driver": ""},
            {"Name": "v", "Driver": "local"},
        ],
        "NetworkSettings": {"Networks": {"b": {}, "a": {}}},
        **more,
    }


def test_a_container_as_fields() -> None:
    short, whole = ps.fields(container(), whole=False), ps.fields(container(), whole=True)
    assert short["Command"] == '"sh -c \\"echo a very …"'
    assert whole["Command"] == '"sh -c \\"echo a very long command\\""'
    assert (short["ID"], whole["ID"]) == ("c" * 12, "c" * 64)
    assert (short["Names"], whole["Names"]) == ("web", "web,other/alias")
    assert short["RunningFor"] == "About an hour ago"
    assert short["Labels"] == "a=1,b=2"
    assert short["Mounts"] == "/a/very/long/s…,v"
    assert (short["LocalVolumes"], short["Networks"]) == ("1", "a,b")
    assert ps.fields(container(Image="sha256:" + "d" * 64), whole=False)["Image"] == "d" * 12


@pytest.mark.parametrize(
    ("published", "shown"),
    [
        ([], ""),
        ([{"PrivatePort": 80, "Type": "tcp"}], "80/tcp"),
        (
            [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
            "0.0.0.0:8080->80/tcp",
        ),
        (
            [{"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
            "[::]:8080->80/tcp",
        ),
        ([{"PrivatePort": port, "Type": "udp"} for port in (53, 54, 55, 60)], "53-55/udp, 60/udp"),
        (
            [
                {"IP": "1.2.3.4", "PrivatePort": p, "PublicPort": p + 1000, "Type": "tcp"}
                for p in (1, 2)
            ],
            "1.2.3.4:1001-1002->1-2/tcp",
        ),
    ],
)
def test_ports(published: list[dict[str, Any]], shown: str) -> None:
    assert ps.ports(published) == shown


def test_an_image_has_a_row_for_each_tag() -> None:
    image = {
        "Id": "sha256:" + "e" * 64,
        "Created": 0,
        "Size": 1_982_853,
        "RepoTags": ["busybox:latest", "host:5000/x/y:1"],
        "RepoDigests": ["busybox@sha256:" + "f" * 64],
    }
    rows = list(rows_of(image, whole=False, digests=True))
    assert [(row["Repository"], row["Tag"]) for row in rows] == [
        ("busybox", "latest"),
        ("host:5000/x/y", "1"),
    ]
    assert rows[0]["Digest"].startswith("sha256:ff")
    assert rows[1]["Digest"] == "<none>"
    assert (rows[0]["ID"], rows[0]["Size"]) == ("e" * 12, "1.98MB")
    (bare,) = rows_of(image | {"RepoTags": None, "RepoDigests": []}, whole=True, digests=False)
    assert (bare["Repository"], bare["Tag"], bare["ID"]) == ("<none>", "<none>", image["Id"])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("busybox", ("busybox", "latest")),
        ("busybox:1", ("busybox", "1")),
        ("host:5000/x", ("host:5000/x", "latest")),
        ("host:5000/x:2", ("host:5000/x", "2")),
        ("x@sha256:abc", ("x", "sha256:abc")),
    ],
)
def test_names_and_tags(name: str, parts: tuple[str, str]) -> None:
    assert split_tag(name) == parts


READING: dict[str, Any] = {
    "id": "a" * 64,
    "name": "/web",
    "cpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 2000, "online_cpus": 2},
    "memory_stats": {"usage": 3 << 20, "limit": 4 << 20, "stats": {"inactive_file": 1 << 20}},
    "pids_stats": {"current": 3},
    "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2}, "eth1": {"rx_bytes": 1, "tx_bytes": 3}},
    "blkio_stats": {
        "io_service_bytes_recursive": [{"op": "Read", "value": 7}, {"op": "write", "value": 9}]
    },
}  # fmt: skip
BEFORE = {"cpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000}}


def test_stats_as_fields() -> None:
    row = stats_fields("web", BEFORE, READING, whole=False)
    assert row == {
        "Container": "web",
        "ID": "a" * 12,
        "Name": "web",
        "CPUPerc": "20.00%",
        "MemUsage": "2MiB / 4MiB",
        "MemPerc": "50.00%",
        "NetIO": "1kB / 5B",
        "BlockIO": "7B / 9B",
        "PIDs": "3",
    }
    assert stats_fields("web", None, None, whole=False)["CPUPerc"] == "--"


def test_counters_that_go_back_are_no_time() -> None:
    assert cpu_percent(READING, READING) == 0
    assert cpu_percent({}, {"cpu_stats": {}}) == 0
    assert used_memory({"usage": 5, "stats": {"total_inactive_file": 9}}) == 5


def test_disk_usage() -> None:
    rows = summary(
        {
            "LayersSize": 1000,
            "Images": [
                {"Size": 600, "SharedSize": 0, "Containers": 1},
                {"Size": 400, "Containers": 0},
            ],
            "Containers": [{"State": "running", "SizeRw": 5}, {"State": "exited", "SizeRw": 15}],
        }
    )
    assert [tuple(row.values()) for row in rows] == [
        ("Images", "2", "1", "1kB", "400B (40%)"),
        ("Containers", "2", "1", "20B", "15B (75%)"),
        ("Local Volumes", "0", "0", "0B", "0B"),
        ("Build Cache", "0", "0", "0B", "0B"),
    ]
    account = {
        "total": 30,
        "reclaimable": 10,
        "categories": {"images": {"bytes": 30, "reclaimable": 10}},
    }
    assert account_rows(account)[1:] == [["Images", "30B", "10B"], ["Total", "30B", "10B"]]


def test_ellipsis() -> None:
    assert ellipsis("12345", 5) == "12345"
    assert ellipsis("123456", 5) == "1234…"
