"""Machines beside plain QEMU: the first byte of a program, the boot of the kit, an exec."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench import images
from bench.daemons import SKERRY, MissingPiece, Skerry
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.world import World

COLD = "plain QEMU, -M pc, to its init"
_INIT = b"#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs d /dev\necho up >/dev/ttyS0\n"
_VM = ("--isolation", "vm", "--network", "none", "busybox")
_PATIENCE = 300.0
_TEMPLATES = "templates"


def vm_run(world: World, runs: int) -> Outcome:
    """From `skerry run --isolation vm` to the program's first byte, with a template there: with a
    spare machine that the engine has got ready, with the second one right after such a start, the
    same with a volume, and of an engine that makes no spares. None is being made while a clock
    runs."""
    ours = "skerry run --isolation vm, first byte"
    second = "the same, right after another"
    volume = "the same, with a volume"
    bare = "the same, no spare machine"
    plain = _Plain(world)
    engine, lonely = world.skerry, world.lasting(_engine_without_spares)
    bound = ("-v", "bench-volume:/volume")
    # Three: with a volume, and two without time between, after which two are kept.
    for options in (bound, (), (), ()):
        engine.skerry("run", "--rm", *options, *_VM, "true", timeout=_PATIENCE)
    lonely.skerry("run", "--rm", *_VM, "true", timeout=_PATIENCE)

    def with_spare(*options: str) -> float:
        _await_spares(engine)
        return _first_byte(engine, *options)

    def after_another() -> float:
        with_spare()
        return _first_byte(engine)

    def none(start: Callable[[], float]) -> Callable[[], float]:
        """With nothing being made beside."""

        def call() -> float:
            _await_spares(engine)
            return start()

        return call

    return interleave(
        "vm_run",
        [
            Case(ours, with_spare),
            Case(second, after_another),
            Case(volume, lambda: with_spare(*bound)),
            Case(bare, none(lambda: _first_byte(lonely))),
            Case(COLD, none(plain.boot)),
        ],
        [Target(each, COLD, 0.2) for each in (ours, second, volume, bare)],
        runs=min(runs, 10),
    )


def _engine_without_spares(_: World) -> Skerry:
    return Skerry(settings={"vm-spares": 0})


def _await_spares(engine: Skerry, count: int = 2) -> None:
    """Until the engine has so many spare machines that are ready."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        facts = json.loads(engine.skerry("info", "-f", "json").stdout)
        if sum(spare["Ready"] for spare in facts["SpareMachines"]) >= count:
            return
        time.sleep(0.1)
    raise MissingPiece("the engine gets no spare machines ready")


def vm_boot(world: World, runs: int) -> Outcome:
    """A cold boot of the kit until its agent has answered, as for a new template; and the same boot
    until the agent has loaded what runs programs."""
    ours = "the kit, to agent ready"
    plain = _Plain(world)
    made: dict[str, float] = {}

    def boot() -> float:
        made.update(_make_template(world))
        return made["boot_seconds"] * 1000

    return interleave(
        "vm_boot",
        [
            Case(ours, boot),
            Case("the kit, until programs can start", lambda: made["prepared_seconds"] * 1000),
            Case(COLD, plain.boot),
        ],
        [Target(ours, COLD, 0.8)],
        runs=min(runs, 6),
        warm=1,
    )


def vm_exec(world: World, runs: int) -> Outcome:
    """`skerry exec` of `true` in a machine and in a container."""
    engine = world.skerry
    names = {"skerry exec, machine": "bench-vm", "skerry exec, container": "bench-thin"}
    try:
        engine.skerry("run", "-d", "--name", "bench-vm", *_VM, "sleep", "9999", timeout=_PATIENCE)
        engine.skerry(
            *("run", "-d", "--name", "bench-thin", "--network", "none", "busybox", "sleep", "9999")
        )
        return interleave(
            "vm_exec",
            [Case(case, _exec(world, name)) for case, name in names.items()],
            [Target("skerry exec, machine", "skerry exec, container", 5.0)],
            runs=runs,
        )
    finally:
        engine.skerry("rm", "-f", *names.values(), check=False)


def _exec(world: World, name: str) -> Callable[[], None]:
    return lambda: spawn([str(SKERRY), "exec", name, "true"], world.skerry.environment())


def _first_byte(engine: Skerry, *options: str) -> float:
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(SKERRY), "run", "--rm", *options, *_VM, "echo", "up"],
        env=engine.environment(),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        if process.stdout.read(1) != b"u":
            raise MissingPiece("the machine's program says nothing")
        return (time.perf_counter() - start) * 1000
    finally:
        process.communicate(timeout=_PATIENCE)


def _make_template(world: World) -> dict[str, float]:
    """A fresh template: what its manifest says of the seconds since QEMU's start."""
    from skerry.machine.shape import MIB, Shape
    from skerry.machine.templates import Templates

    home = world.home / _TEMPLATES
    shutil.rmtree(home / "templates", ignore_errors=True)
    home.mkdir(exist_ok=True)

    async def make() -> None:
        templates = Templates(home)
        await templates.get(Shape(256 * MIB, 1))
        templates.close()

    asyncio.run(make())
    (manifest,) = home.glob("templates/*/manifest.json")
    found = json.loads(manifest.read_text())
    return {name: float(found[name]) for name in ("boot_seconds", "prepared_seconds")}


class _Plain:
    """The boot to compare with: Debian's cloud kernel, a busybox initramfs, no tricks."""

    def __init__(self, world: World) -> None:
        from skerry.machine import linux
        from skerry.machine.cpio import Archive

        self._kernel = linux.fetch(world.home / "kernel").image
        self._initramfs = world.home / "initramfs"
        with open(self._initramfs, "wb") as file:
            archive = Archive(file)
            archive.folder("dev")
            archive.data("bin/busybox", Path(images.BUSYBOX).read_bytes(), 0o755)
            archive.data("init", _INIT + b"/bin/busybox sleep 1000\n", 0o755)
            archive.close()

    def boot(self) -> float:
        """Milliseconds from QEMU's start to the init's word on the serial port."""
        start = time.perf_counter()
        process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-M", "pc", "-accel", "tcg", "-m", "256"),
                *("-display", "none"),
                *("-nodefaults", "-no-reboot", "-serial", "stdio", "-kernel", str(self._kernel)),
                *("-initrd", str(self._initramfs), "-append", "quiet loglevel=0 panic=-1"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            seen = b""
            while b"up" not in seen:
                data = os.read(process.stdout.fileno(), 4096)
                if not data:
                    raise MissingPiece("plain QEMU does not boot")
                seen += data
            return (time.perf_counter() - start) * 1000
        finally:
            process.kill()
            process.communicate()
