"""An engine without a host: the store and the isolation driver kept in memory."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from skerry.base.errors import Conflict, NotFound
from skerry.base.isolation import Attach, ExecTask, Exit, Overlay, Started, Stats, Task
from skerry.base.settings import Settings
from skerry.engine.container import Container
from skerry.engine.engine import Engine
from skerry.engine.isolation import OnExit, OnOom
from skerry.store.gc import Category, Reclaimed, Usage
from skerry.store.images import HistoryLine, Image, Removed
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.records import Record, Records
from skerry.store.snapshots import Change
from skerry.store.steps import Steps

IMAGE = Image(
    id="sha256:" + "ab" * 32,
    tags=("busybox:latest",),
    digests=(),
    manifest="sha256:" + "cd" * 32,
    media_type="application/vnd.oci.image.manifest.v1+json",
    manifest_size=400,
    layers=("sha256:" + "ef" * 32,),
    blobs=(),
    created="2024-05-01T00:00:00Z",
    size=1_000_000,
    parent="",
    architecture="amd64",
    os="linux",
    variant="",
    author="",
    comment="",
    config={"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"from": "image"}},
    tagged_at=0.0,
)


class FakeStream:
    """Gives what it was given and notes what it was told."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.written = b""
        self.stdin_closed = False
        self.closed = False
        for chunk in chunks:
            self.chunks.put_nowait(chunk)

    async def read(self) -> bytes:
        return await self.chunks.get()

    async def write(self, data: bytes) -> None:
        self.written += data

    async def close_stdin(self) -> None:
        self.stdin_closed = True

    async def close(self) -> None:
        self.closed = True
        self.chunks.put_nowait(b"")


class FakeDriver:
    """Programs end when a test says so, or by a signal that they do not ignore."""

    name = "fake"

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.on_exit: dict[str, OnExit] = {}
        self.on_oom: OnOom | None = None
        self.execs: dict[str, tuple[ExecTask, OnExit]] = {}
        self.stream = FakeStream()
        self.calls: list[tuple[Any, ...]] = []
        self.fail: Exception | None = None
        self.ends_at_once: int | None = None
        self.ignores: set[int] = set()
        self.found: dict[str, Started | Exit] = {}

    async def create(self, task: Task) -> None:
        self.calls.append(("create", task.id))

    async def start(
        self, task: Task, on_exit: OnExit, *, attach: Attach | None = None
    ) -> tuple[Started, FakeStream | None]:
        self.calls.append(("start", task.id, attach))
        if self.fail is not None:
            raise self.fail
        self.tasks[task.id] = task
        self.on_exit[task.id] = on_exit
        if self.ends_at_once is not None:
            self.end(task.id, self.ends_at_once)
        return Started(4242, 1), self.stream if attach else None

    def end(self, id: str, code: int, *, oom: bool = False) -> None:
        self.tasks.pop(id, None)
        self.on_exit.pop(id)(id, Exit(code, oom, 1.7e9 + 100))

    async def attach(self, container_id: str, run_dir: str, how: Attach) -> FakeStream:
        return self.stream

    async def exec(
        self, task: ExecTask, on_exit: OnExit, *, attach: Attach | None
    ) -> tuple[Started, FakeStream | None]:
        if self.fail is not None:
            raise self.fail
        self.execs[task.id] = (task, on_exit)
        return Started(4343, 2), self.stream if attach else None

    async def resize(self, run_dir: str, rows: int, columns: int) -> None:
        self.calls.append(("resize", rows, columns))

    async def signal(self, container_id: str, run_dir: str, signal: int) -> None:
        self.calls.append(("signal", signal))
        if container_id not in self.tasks:
            raise Conflict("not running")
        if signal not in self.ignores:
            asyncio.get_running_loop().call_soon(self.end, container_id, 128 + signal)

    async def pause(self, container_id: str) -> None:
        self.calls.append(("pause", container_id))

    async def resume(self, container_id: str) -> None:
        self.calls.append(("resume", container_id))

    async def update(self, container_id: str, resources: dict[str, object]) -> None:
        self.calls.append(("update", resources))

    async def stats(self, container_id: str) -> Stats:
        return Stats(1.7e9, 1, 0, 10, 5, 5, 0, 0, 0, 4096, 0, 0, {}, (), {})

    async def pids(self, container_id: str) -> list[int]:
        return [os.getpid()]

    async def refused_forks(self, container_id: str) -> int:
        return 0

    async def recover(
        self, container_id: str, run_dir: str, on_exit: OnExit
    ) -> Started | Exit | None:
        found = self.found.get(container_id)
        if isinstance(found, Started):
            self.on_exit[container_id] = on_exit
        return found

    async def delete(self, container_id: str, state_dir: str, run_dir: str) -> None:
        self.calls.append(("delete", container_id))

    async def close(self) -> None:
        self.calls.append(("close",))


class FakeSnapshots:
    """Snapshots as names; the root of all is one folder."""

    def __init__(self, base: str) -> None:
        self.folder = base
        self.ids: set[str] = set()

    def prepare(self, id: str, image_id: str | None, base: str = "") -> Overlay:
        self.ids.add(id)
        return self.overlay(id)

    def base(self, id: str) -> str:
        return ""

    def node(self, id: str) -> str:
        return ""

    def sweep_frozen(self, named: Any) -> int:
        return 0

    def overlay(self, id: str) -> Overlay:
        return Overlay((self.folder,))

    def list(self) -> list[str]:
        return sorted(self.ids)

    def changes(self, id: str) -> "list[Change]":
        return [Change(1, "/new")]

    def usage(self, id: str) -> int:
        return 7

    def remove(self, id: str) -> None:
        self.ids.discard(id)


class FakeRecords:
    """What is put into `rows`."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Record]] = {}

    def all(self, kind: str) -> list[Record]:
        return self.rows.get(kind, [])


class FakeImages:
    """One image."""

    def __init__(self) -> None:
        self.images = [IMAGE]
        self.records = FakeRecords()
        self.in_use: Any = None

    def get(self, name: str) -> Image:
        for image in self.images:
            if name == image.id or name in image.tags or f"{name}:latest" in image.tags:
                return image
        raise NotFound(f"No such image: {name}")

    def list(self) -> list[Image]:
        return list(self.images)

    def history(self, name: str) -> "list[HistoryLine]":
        return [HistoryLine(self.get(name).id, IMAGE.created, "made", 1, "", IMAGE.tags)]

    def tag(self, name: str, reference: str) -> Image:
        return self.get(name)

    def remove(self, name: str, **options: Any) -> "list[Removed]":
        self.in_use = options["in_use"]
        return [Removed(untagged=name), Removed(deleted=self.get(name).id)]


class FakeCollector:
    """Nothing to collect."""

    def usage(self, in_use: Any = (), *, unused: bool = False) -> Usage:
        return Usage(100, 40, {"images": Category(100, 40, 1)})

    def collect(self, in_use: Any = (), **options: bool) -> Reclaimed:
        return Reclaimed(40, [], 0, 0)

    def only_cached(self) -> list[str]:
        return []

    def sweep(self) -> None:
        return

    def empty_trash(self) -> int:
        return 0


class FakePaths:
    """Blobs or layers that are not on any disk."""

    def path(self, digest: str) -> str:
        return f"/nonexistent/{digest}"

    def has(self, digest: str) -> bool:
        return False

    def all(self) -> list[str]:
        return []


class FakeScratch:
    """Removes at once."""

    def discard(self, path: str) -> None:
        shutil.rmtree(path)


class FakeStore:
    """Real records, the rest in memory."""

    def __init__(self, root: Path, base: Path) -> None:
        self.records = Records(str(root / "skerry.db"))
        self.snapshots = FakeSnapshots(str(base))
        self.images = FakeImages()
        self.leases = Leases()
        self.scratch = FakeScratch()
        self.gc = FakeCollector()
        self.layers = FakePaths()
        self.blobs = FakePaths()
        self.steps = Steps(self.records, cast(Layers, self.layers), self.leases)

    def close(self) -> None:
        self.records.close()


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """The root of the image."""
    base = tmp_path / "base"
    (base / "etc").mkdir(parents=True)
    (base / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:7:8::/home/user:\n")
    (base / "etc/group").write_text("root:x:0:\nwheel:x:10:root,user\nextra:x:20:\n")
    return base


MakeEngine = Callable[[], Engine]


@pytest.fixture
def make_engine(tmp_path: Path, image_root: Path) -> MakeEngine:
    """Engines over the same root, one after the other."""

    def make() -> Engine:
        settings = Settings(
            str(tmp_path / "root"), str(tmp_path / "run"), f"unix://{tmp_path}/s.sock"
        )
        (tmp_path / "root").mkdir(exist_ok=True)
        store: Any = FakeStore(tmp_path / "root", image_root)
        return Engine(settings, store=store, driver=FakeDriver())

    return make


@pytest.fixture
async def engine(make_engine: MakeEngine) -> AsyncIterator[Engine]:
    """A running engine."""
    async with make_engine() as running:
        yield running


@pytest.fixture
def driver(engine: Engine) -> FakeDriver:
    """Its driver."""
    assert isinstance(engine.driver, FakeDriver)
    return engine.driver


MakeContainer = Callable[..., Any]


@pytest.fixture
def create(engine: Engine) -> MakeContainer:
    """`await create(name="x", host={...}, Cmd=[...])`."""

    async def make(name: str = "", host: dict[str, Any] | None = None, **config: Any) -> Container:
        wanted = {"Image": "busybox", "Cmd": ["true"], **config}
        container, _ = await engine.containers.create(wanted, host or {}, {}, name)
        return container

    return make


@pytest.fixture
def heard(engine: Engine) -> Callable[[], list[str]]:
    """The actions told so far."""
    return lambda: [event.action for event in engine.events.past()]
