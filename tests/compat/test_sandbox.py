"""`Sandbox` and `AsyncSandbox` against our engine."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.daemons import PYTHON, Skerry

import skerry
from skerry import AsyncSandbox, Sandbox
from skerry.base import errors
from skerry.sdk.sandbox import STDERR, STDOUT

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
def box(engine: Skerry) -> Iterator[Sandbox]:
    with Sandbox("busybox", host=engine.host) as made:
        yield made


def test_commands(box: Sandbox) -> None:
    done = box.exec("sh", "-c", "echo out; echo err >&2; exit 3")
    assert done == (3, b"out\n", b"err\n")
    assert done.text == "out\n"
    with pytest.raises(errors.CommandFailed, match="exit code 3: err") as caught:
        done.check()
    assert caught.value.exit_code == 3
    with pytest.raises(errors.CommandFailed):
        box.exec("false", check=True)
    assert box.exec("cat", stdin="text").stdout == b"text"
    big = os.urandom(1 << 20)
    assert box.exec("cat", stdin=big).stdout == big
    assert box.exec("true", stdin=big).exit_code == 0
    about = box.exec(
        "sh",
        "-c",
        'echo "$A $(pwd) $(id -u)"',
        environment={"A": "x"},
        working_dir="/tmp",
        user="7",
    )
    assert about.text == "x /tmp 7\n"
    assert box.exec("nosuch").exit_code == 127
    with pytest.raises(errors.OutputExceeded) as loud:
        box.exec("yes", max_output=100)
    assert loud.value.stdout == b"y\n" * 50


def test_output_as_it_comes(box: Sandbox) -> None:
    with box.start("sh", "-c", "echo first; read line; echo got $line >&2", stdin=True) as process:
        pieces = iter(process)
        assert next(pieces) == (STDOUT, b"first\n")
        process.write(b"it\n")
        assert next(pieces) == (STDERR, b"got it\n")
        assert process.wait() == 0
    heard: list[tuple[int, bytes]] = []
    box.exec("echo", "x", on_output=lambda stream, piece: heard.append((stream, piece)))
    assert heard == [(STDOUT, b"x\n")]
    with box.start("sh", "-c", "echo a; echo b >&2; printf c") as process:
        assert sorted(process.lines()) == [(STDOUT, "a"), (STDOUT, "c"), (STDERR, "b")]


def test_time_is_limited_and_everything_killed(box: Sandbox) -> None:
    script = "sleep 987 & sleep 987; true"
    with pytest.raises(errors.TimedOut, match=r"within 0\.5 seconds and was killed") as caught:
        box.exec("sh", "-c", f"echo said; {script}", timeout=0.5)
    assert caught.value.stdout in (b"said\n", b"")
    with box.start("sh", "-c", script):
        pass
    waiting = "while ps | grep -q '[s]leep 987'; do sleep 0.05; done"
    assert box.exec("sh", "-c", waiting, timeout=120).exit_code == 0
    assert box.exec("echo", "on").text == "on\n"


def test_files(box: Sandbox, tmp_path: Path) -> None:
    box.files.write("/work/deep/file", "text", mode=0o600)
    box.files.write("/work/data", b"\0\1")
    assert box.files.read_text("/work/deep/file") == "text"
    assert box.files.read("/work/data") == b"\0\1"
    found = {each.name: each for each in box.files.list("/work")}
    assert list(found) == ["data", "deep"]
    assert found["deep"].is_dir
    assert found["data"].size == 2
    (entry,) = box.files.list("/work/deep")
    assert stat.S_IMODE(entry.mode) == 0o600
    assert box.files.exists("/work")
    assert not box.files.exists("/nosuch")
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/one").write_text("one")
    box.files.upload(str(tmp_path / "tree"), "/up")
    assert box.exec("cat", "/up/sub/one").text == "one"
    box.files.download("/up", str(tmp_path / "back"))
    assert (tmp_path / "back/sub/one").read_text() == "one"
    box.files.download("/work/data", str(tmp_path / "data"))
    assert (tmp_path / "data").read_bytes() == b"\0\1"
    box.files.mkdir("/work/made/here", mode=0o711)
    made = box.files.stat("/work/made/here")
    assert (made.name, made.is_dir, stat.S_IMODE(made.mode)) == ("here", True, 0o711)
    with pytest.raises(errors.InvalidInput):
        box.files.write("/work/made", "not in a folder's place")
    with pytest.raises(errors.NotFound, match="/nosuch"):
        box.files.stat("/nosuch")
    with pytest.raises(errors.LimitExceeded):
        box.files.download("/work", tmp_path / "large", max_bytes=100)
    for wrong in ("/nosuch", "/work"):
        with pytest.raises(errors.SkerryError):
            box.files.read(wrong)
    with pytest.raises(errors.NotFound):
        box.files.list("/nosuch")
    with pytest.raises(errors.InvalidInput):
        box.files.list("/work/data")


def test_a_guest_cannot_reach_out_of_a_download(box: Sandbox, tmp_path: Path) -> None:
    box.exec("sh", "-c", f"mkdir /evil; ln -s {tmp_path} /evil/link", check=True)
    box.files.download("/evil", str(tmp_path / "got"))
    assert os.readlink(tmp_path / "got/link") == str(tmp_path)
    box.exec("sh", "-c", "rm /evil/link; mkdir /evil/link; echo x > /evil/link/out", check=True)
    with pytest.raises(errors.InvalidInput):
        box.files.download("/evil", str(tmp_path / "got"))
    assert not (tmp_path / "out").exists()


def test_limits_and_no_network(engine: Skerry) -> None:
    with Sandbox(
        "busybox", host=engine.host, memory=64 << 20, cpus=0.5, pids_limit=50, labels={"a": "b"}
    ) as box:
        host = box.container.inspect()["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 5 * 10**8, 50)
        assert box.exec("ls", "/sys/class/net").text == "lo\n"
        assert [each.id for each in Sandbox.leftovers(engine.host)] == [box.id]
    assert Sandbox.leftovers(engine.host) == []


def test_history_and_copies(box: Sandbox) -> None:
    box.files.write("/state", "one")
    one = box.snapshot("one")
    box.files.write("/state", "two")
    two = box.snapshot()
    assert [(each.name, each.parent) for each in box.snapshots()] == [("one", ""), ("s2", one.id)]
    assert two.kind == "disk"
    box.restore(one)
    assert box.files.read("/state") == b"one"
    box.restore(two.id)
    assert box.files.read("/state") == b"two"
    with box.fork(4) as copies:
        assert copies.failures == []
        results = copies.exec("sh", "-c", "hostname >> /state; cat /state")
        assert len({each.text for each in results if isinstance(each, tuple)}) == 4
        first, *others = copies.map(lambda copy: 1 // (copy is not copies[0]))
        assert isinstance(first, ZeroDivisionError)
        assert others == [1, 1, 1]
        assert box.files.read("/state") == b"two"
    assert len(Sandbox.leftovers(box._client.host)) == 1


def test_a_copy_that_fails_takes_none_with_it(engine: Skerry) -> None:
    with Sandbox(
        "busybox",
        host=engine.host,
        keep_alive=("sh", "-c", "mkdir /alone/once && exec sleep 1000"),
        volumes=["/alone"],
    ) as box:
        # The copies' volumes hold the folder already, so their program ends at once; one is mended.
        names = [f"{box.container.name}-{number}" for number in (1, 2)]
        # An exec may come before the program has made its folder.
        box.exec("sh", "-c", "until rmdir /alone/once 2>&1; do sleep 0.1; done", check=True)
        copies = box.fork(2)
        assert [each.container.name for each in copies] == names
        copies[0].container.remove(force=True)
        dead, alive = copies.exec("echo", "x")
        assert isinstance(dead, errors.NotFound)
        assert not isinstance(alive, Exception)
        assert alive.text == "x\n"


def test_a_sandbox_that_cannot_start_leaves_nothing(engine: Skerry) -> None:
    with (
        pytest.raises(errors.SkerryError),
        Sandbox("busybox", host=engine.host, user="nosuch"),
    ):
        raise AssertionError
    with pytest.raises(errors.InvalidInput), Sandbox("busybox", isolation="wall", host=engine.host):
        raise AssertionError
    assert Sandbox.leftovers(engine.host) == []


def test_neither_an_interrupt_nor_the_end_of_python_leaves_anything(engine: Skerry) -> None:
    made = f"skerry.Sandbox('busybox', host={engine.host!r})"
    handler = "import signal; signal.signal(2, signal.default_int_handler)"
    interrupted = f"""
import signal, skerry, threading
from skerry.sdk import sandbox
known = sandbox.ask
def ask(client, request):
    # As if Ctrl-C came when the engine has made the copies and the answer is on its way.
    answer = known(client, request)
    if 'fork' in request.target:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    return answer
sandbox.ask = ask
with {made} as box:
    box.fork(2)
    print('not reached')
"""
    for script, code in ((f"import skerry; x = {made}.open(); x.fork()", 0), (interrupted, -2)):
        done = subprocess.run(
            [str(PYTHON), "-c", f"{handler}; {script}"],
            check=False, timeout=120, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert Sandbox.leftovers(engine.host) == []


def test_a_lifetime_ends_it_without_us(engine: Skerry) -> None:
    opened = f"skerry.Sandbox('busybox', host={engine.host!r}, lifetime=0.5).open()"
    script = f"import skerry, os; {opened}; os._exit(9)"
    done = subprocess.run([str(PYTHON), "-c", script], check=False, timeout=120)
    assert done.returncode == 9
    gone = threading.Event()
    for _ in range(2400):
        if not Sandbox.leftovers(engine.host):
            gone.set()
            break
        gone.wait(0.05)
    assert gone.is_set()


def test_the_names_cost_nothing_until_used() -> None:
    script = "import sys, skerry; assert 'skerry.sdk' not in sys.modules; skerry.Sandbox"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    with pytest.raises(AttributeError):
        _ = skerry.nosuch  # type: ignore[attr-defined]


async def test_the_asynchronous_one(engine: Skerry, tmp_path: Path) -> None:
    async with AsyncSandbox("busybox", host=engine.host) as box:
        done = await box.exec("sh", "-c", "cat; echo e >&2; exit 4", stdin=b"in")
        assert done == (4, b"in", b"e\n")
        results = await asyncio.gather(*(box.exec("echo", str(n)) for n in range(5)))
        assert [each.text for each in results] == [f"{n}\n" for n in range(5)]
        with pytest.raises(errors.TimedOut):
            await box.exec("sleep", "1000", timeout=0.2)
        await box.files.write("/dir/file", "text")
        assert await box.files.read_text("/dir/file") == "text"
        assert [each.name for each in await box.files.list("/dir")] == ["file"]
        assert await box.files.exists("/dir/file")
        await box.files.download("/dir", str(tmp_path / "got"))
        await box.files.upload(str(tmp_path / "got"), "/again")
        assert (await box.exec("cat", "/again/file")).text == "text"
        point = await box.snapshot("one")
        await box.files.write("/dir/file", "changed")
        await box.restore(point)
        assert await box.files.read("/dir/file") == b"text"
        async with await box.fork(3) as copies:
            assert len(await copies.map(lambda copy: copy.files.stat("/dir/file"))) == 3
            answers = await copies.exec("cat", "/dir/file")
            assert [each.text for each in answers if isinstance(each, tuple)] == ["text"] * 3
        async with await box.start("sh", "-c", "echo 1; sleep 1000") as process:
            async for piece in process:
                assert piece == (STDOUT, b"1\n")
                break
        async with await box.start("cat", stdin=True) as process:
            await process.write("a line\n")
            process.close_stdin()
            assert [each async for each in process.lines()] == [(STDOUT, "a line")]
    assert await AsyncSandbox.leftovers(engine.host) == []


async def test_a_cancelled_task_leaves_nothing(engine: Skerry) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with AsyncSandbox("busybox", host=engine.host) as box:
            inside.set()
            await box.exec("sleep", "1000")

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await AsyncSandbox.leftovers(engine.host) == []


def test_the_main_programs_end_is_no_result_of_a_command(engine: Skerry) -> None:
    with Sandbox("busybox", host=engine.host) as box:
        pid = box.container.inspect()["State"]["Pid"]
        with pytest.raises(errors.SandboxEnded) as caught:
            box.exec(
                "sh", "-c", "echo said; exec sleep 1000",
                on_output=lambda *_: os.kill(pid, signal.SIGKILL),
            )  # fmt: skip
        assert caught.value.stdout == b"said\n"
        with pytest.raises(errors.Conflict):
            box.exec("true")
    with Sandbox("busybox", host=engine.host) as box:
        # At whatever moment of its end, neither an exec nor a removal takes it for something else.
        os.kill(box.container.inspect()["State"]["Pid"], signal.SIGKILL)
        with pytest.raises((errors.Conflict, errors.SandboxEnded)):
            box.exec("sleep", "1000")
    assert Sandbox.leftovers(engine.host) == []


def test_input_that_nobody_takes(box: Sandbox) -> None:
    with box.start("true", stdin=True) as process:
        process.wait()
        with pytest.raises(errors.InputRefused, match="exit code 0"):
            process.write(b"x" * (1 << 20))
    with (
        box.start("sleep", "1000", stdin=True, timeout=0.5) as process,
        pytest.raises(errors.TimedOut),
    ):
        process.write(b"x" * (16 << 20))


async def test_an_engine_that_dies_is_no_fault_of_the_program() -> None:
    engine = Skerry()
    try:
        engine.start()
        engine.add_busybox()
        with Sandbox("busybox", host=engine.host) as box:
            async with AsyncSandbox("busybox", host=engine.host) as other:
                talks = await other.start("sh", "-c", "echo a; exec sleep 1000")
                pieces = aiter(talks)
                assert await anext(pieces) == (STDOUT, b"a\n")
                script = "echo a; exec sleep 1000"

                def killed(*_: object) -> None:
                    engine.stop(signal.SIGKILL)
                    engine.start()

                with pytest.raises(errors.Unavailable):
                    box.exec("sh", "-c", script, on_output=killed)
                with pytest.raises(errors.Unavailable, match="output is lost"):
                    await anext(pieces)
                assert box.exec("echo", "on").text == "on\n"
                engine.stop(signal.SIGKILL)
                for close in (box.close, lambda: asyncio.run(other.close())):
                    with pytest.raises(errors.Unavailable):
                        await asyncio.to_thread(close)
                engine.start()
        assert Sandbox.leftovers(engine.host) == []
    finally:
        engine.close()
