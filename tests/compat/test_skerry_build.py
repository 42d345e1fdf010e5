"""`skerry build` against our engine: what is sent, shown, made and left; shells on a terminal."""

import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.daemons import SKERRY, Skerry
from bench.ports import free_port

from skerry.sdk import Engine
from skerry.sdk.builds import BuildFailed

from .conftest import Terminal

pytestmark = [
    pytest.mark.root,
    pytest.mark.usefixtures("builder_began", "no_leaks"),
]
Build = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def builder_began(engine: Skerry) -> None:
    """The first build makes the builder's folder in the run root, which stays."""
    engine.skerry("build", "-q", "-", stdin=b"FROM busybox\nRUN true\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A context of a few files."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.txt").write_text("alpha\n")
    (tmp_path / "noise.log").write_text("noise\n")
    (tmp_path / ".dockerignore").write_text("*.log\n")
    return tmp_path


@pytest.fixture
def build(engine: Skerry, folder: Path) -> Build:
    """`build("-t", "x", text="FROM …", code=0)` in the context."""

    def call(
        *words: str, text: str = "", code: int = 0, stdin: bytes = b"", context: str = ""
    ) -> subprocess.CompletedProcess[str]:
        if text:
            (folder / "Dockerfile").write_text(text)
        done = engine.skerry(
            "build", *words, context or str(folder), check=False, stdin=stdin, timeout=50
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return call


@pytest.fixture
def on_terminal(engine: Skerry) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str) -> Terminal:
        env = engine.environment() | {"TERM": "dumb"}
        opened.append(Terminal([str(SKERRY), *words], env))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def output(build: Build, *words: str, text: str, **more: str) -> dict[str, bytes]:
    """The files of `-o type=tar`."""
    found = {}
    (name,) = [word.partition("dest=")[2] for word in words if "dest=" in word]
    build(*words, text=text, **more)
    with tarfile.open(name) as archive:
        for each in archive:
            file = archive.extractfile(each) if each.isreg() else None
            found[each.name.rstrip("/").removeprefix("./")] = file.read() if file else b""
    return found


def test_ignored_files_stay_here_and_what_is_taken_away_is_not_stored(
    build: Build, tmp_path: Path, engine: Skerry
) -> None:
    to = ("-o", f"type=tar,dest={tmp_path}/o.tar", "-t", "taken:1")
    found = output(build, *to, text="FROM scratch\nCOPY . /d/\n")
    assert found["d/src/a.txt"] == b"alpha\n"
    assert "d/noise.log" not in found
    assert engine.skerry("images", "-q", "taken:1").stdout == ""
    build("--load", *to, text="FROM scratch\nCOPY . /d/\n")
    engine.skerry("rmi", "taken:1")


def test_named_contexts_arguments_and_targets(build: Build, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/b.txt").write_text("beta")
    text = "ARG B=scratch\nFROM scratch AS one\nCOPY --from=more b.txt /b\nFROM $B\nCOPY none /\n"
    words = ("--target", "one", "--build-context", f"more={tmp_path}/more", "--build-arg", "B=x")
    found = output(build, *words, "-o", f"type=tar,dest={tmp_path}/o.tar", text=text)
    assert found == {"b": b"beta"}


def test_layouts_images_and_stages_as_named_contexts(
    build: Build, tmp_path: Path, engine: Skerry
) -> None:
    layout = tmp_path / "layout"
    build(
        *("-o", f"type=oci,dest={layout},tar=false,name=made:1"),
        text="FROM busybox\nENV MADE=here\nRUN echo one > /one\nCOPY src /src\n",
    )
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    before = engine.skerry("images", "-aq").stdout.split()
    text = "FROM base\nRUN echo $MADE > /two\nCOPY --from=BASE /one /three\nCMD cat /two /three\n"
    for reference in ("", ":1", f"@{entry['digest']}"):
        words = ("--build-context", f"base=oci-layout://{layout}{reference}")
        image = build("-q", *words, text=text).stdout.strip()
        assert engine.skerry("run", "--rm", "--network", "none", image).stdout == "here\none\n"
    # The layout's own image is nobody's in the store.
    assert {*engine.skerry("images", "-aq").stdout.split()} - {*before} <= {image, image[7:19]}
    engine.skerry("rmi", image)
    wrong = f"base=oci-layout://{layout}:none"
    assert "holds no image none" in build("--build-context", wrong, code=1).stderr
    blob = layout / "blobs" / entry["digest"].replace(":", "/")
    blob.write_bytes(blob.read_bytes().replace(b"config", b"cinfog"))
    assert "digest" in build("--build-context", f"base=oci-layout://{layout}", code=1).stderr

    # A name may stand for an image, also where a stage has it, or for another stage.
    text = (
        "FROM scratch AS tool\nCOPY none /\nFROM busybox AS real\nRUN echo real > /r\n"
        "FROM scratch\nCOPY --from=tool /r* /bin/true /\n"
    )
    to = ("-o", f"type=tar,dest={tmp_path}/o.tar")
    found = output(build, *to, "--build-context", "tool=docker-image://busybox", text=text)
    assert set(found) == {"true"}
    found = output(build, *to, "--build-context", "tool=target:real", text=text)
    assert found["r"] == b"real\n"
    none = build("--build-context", "tool=target:reel", code=1).stderr
    assert 'target stage "reel" could not be found' in none
    assert "did you mean real?" in none


def test_a_step_may_write_so_much_and_no_more(build: Build) -> None:
    text = "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=40 && sleep 1000\n"
    said = build("--disk-limit", "20m", text=text, code=1).stderr
    assert "MiB, more than its limit of 20 MiB" in said
    assert "Dockerfile:2" in said


def test_to_a_folder_and_to_standard_output(build: Build, tmp_path: Path) -> None:
    build("-o", str(tmp_path / "out"), text="FROM scratch\nCOPY src /\n")
    assert (tmp_path / "out/a.txt").read_text() == "alpha\n"
    done = build("-o", "-")
    assert "a.txt" in done.stdout


def test_contexts_from_standard_input(build: Build, folder: Path) -> None:
    image = build("-q", context="-", stdin=b"FROM busybox\nENV A=1\n").stdout.strip()
    assert image.startswith("sha256:")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder / "src", "src")
        (folder / "Other").write_text("FROM scratch\nCOPY src/a.txt /\n")
        archive.add(folder / "Other", "Other")
    build("-q", "-f", "Other", context="-", stdin=packed.getvalue())
    (folder / "c.tgz").write_bytes(packed.getvalue())
    build("-q", "-f", "Other", context=str(folder / "c.tgz"))
    build("-q", "-f", "-", stdin=b"FROM scratch\nCOPY src /\n")


def test_what_is_left_here(build: Build, tmp_path: Path, engine: Skerry) -> None:
    words = ("--iidfile", f"{tmp_path}/id", "--metadata-file", f"{tmp_path}/about", "-t", "named:1")
    done = build(*words, text="FROM busybox\nLABEL a=b\n")
    image = (tmp_path / "id").read_text()
    assert json.loads((tmp_path / "about").read_text()) == {
        "containerimage.config.digest": image,
        "image.name": "named:1",
    }
    assert f"built {image} named:1" in done.stderr
    assert engine.skerry("image", "inspect", "-f", "{{.Id}}", "named:1").stdout.strip() == image
    engine.skerry("rmi", "named:1")


def test_lines_tell_what_was_cached_and_why_not(build: Build, folder: Path) -> None:
    text = "FROM busybox\nCOPY src /src\nRUN cat /src/a.txt; echo own-line-1\n"
    first = build(text=text).stderr
    assert "own-line-1" in first
    second = build().stderr
    assert second.count(" CACHED\n") == 2
    os.utime(folder / "src/a.txt", (1, 1))
    assert build().stderr.count(" CACHED\n") == 2
    (folder / "src/a.txt").write_text("changed\n")
    assert "[0 2/3] not cached: src/a.txt changed" in build().stderr


def test_json_progress(build: Build) -> None:
    done = build("--progress", "json", text="FROM busybox\nRUN echo hi-json\n")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [each["kind"] for each in events]
    assert kinds[-1] == "result"
    assert "plan" in kinds
    assert any(each.get("data") == "hi-json\n" for each in events)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("FROM busybox\nRUM x\n", ["unknown instruction: RUM (did you mean RUN?)", ":2:1"]),
        ("FROM busybox\nCOPY --form=x a b\n", ["did you mean --from?", "Dockerfile:2:6", "^^^^"]),
        ("FROM a AS a\nFROM b AS b\nCOPY --from=c x y\nFROM b\nCOPY --from=9 x y\n", ["9"]),
        ("FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nCOPY --from=a x y\n",
         ["circular dependency", "b -> a -> b"]),
    ],
)  # fmt: skip
def test_errors_point_at_their_place(build: Build, text: str, parts: list[str]) -> None:
    said = build(text=text, code=1).stderr
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    "text", ["FROM biuld\n", "FROM scratch\nCOPY --from=biuld a b\n",
             "FROM busybox\nRUN --mount=from=biuld,target=/x true\n"],
)  # fmt: skip
def test_a_near_stage_is_suggested(build: Build, text: str) -> None:
    said = build(text="FROM scratch AS build\n" + text, code=1).stderr
    assert "biuld is no stage; did you mean build?" in said
    assert ">>> " in said


def test_a_missing_file_has_its_place(build: Build) -> None:
    said = build(text="FROM scratch\nCOPY none /\n", code=1).stderr
    assert "   2 | >>> COPY none /" in said


def test_a_near_target_is_suggested(build: Build) -> None:
    text = "FROM scratch AS compile\nFROM scratch AS final\n"
    assert "did you mean compile?" in build("--target", "compiel", text=text, code=1).stderr


def test_check(build: Build) -> None:
    done = build("--check", text="FROM busybox:1\nCMD sleep 1\n", code=1)
    assert "WARNING: JSONArgsRecommended" in done.stdout
    assert ">>> CMD sleep 1" in done.stdout
    assert "1 warning has been found" in done.stdout
    clean = build("--check", text='FROM busybox:1\nCMD ["sleep"]\n')
    assert clean.stdout == "Check complete, no warnings found.\n"
    text = "# check=error=true\nFROM busybox\nCMD x\n"
    said = build(text=text, code=1).stderr
    assert "warning: BaseImageLatest" in said
    assert "lint violation found for rules: JSONArgsRecommended\n" in said


def test_the_program_s_status_is_ours(build: Build) -> None:
    done = build("-q", text="FROM busybox\nRUN echo last words; exit 7\n", code=7)
    assert "last words" in done.stderr
    assert "returned a non-zero code: 7" in done.stderr


def test_a_shell_after_a_failure(
    build: Build, folder: Path, on_terminal: Callable[..., Terminal], engine: Skerry
) -> None:
    (folder / "Dockerfile").write_text(
        "FROM busybox\nENV WHO=me\nWORKDIR /w\n"
        "RUN --mount=type=tmpfs,target=/t echo left > left; exit 4\n"
    )
    shell = on_terminal("build", "--shell-on-failure", str(folder))
    shell.expect(b"A shell in the state of [0 4/4]")
    shell.expect(b"# ")
    shell.send(b"echo $(cat left)-$WHO-$PWD; mount | grep -c ' /t '; exit\n")
    shell.expect(b"left-me-/w\r\n1\r\n")
    assert shell.wait() == 4
    assert engine.skerry("ps", "-aq").stdout == ""
    # Without a terminal there is nobody to use a shell.
    assert "no shell is opened" in build("--shell-on-failure", code=4).stderr


def test_steps_are_listed_and_entered(
    build: Build, folder: Path, on_terminal: Callable[..., Terminal], engine: Skerry
) -> None:
    text = "FROM busybox\nRUN echo 1 > /one\nENV X=5\nRUN echo 2 > /two\n"
    listed = build("--list-steps", text=text).stdout.splitlines()
    assert [line.split()[0] for line in listed[1:]][:2] == ["0.0", "0.1"]
    assert "missing" in listed[2]
    build("-q")
    rows = {line.split()[0]: line for line in build("--list-steps").stdout.splitlines()[1:]}
    assert "cached" in rows["0.1"]
    key = rows["0.3"].split()[3]
    shell = on_terminal("build", "--shell-at", key)
    shell.expect(b"# ")
    shell.send(b"echo at-$(cat /two)-$X; exit 0\n")
    shell.expect(b"at-2-5\r\n")
    assert shell.wait() == 0
    shell = on_terminal("build", "--shell-at", "2", str(folder))
    shell.expect(b"# ")
    shell.send(b"ls /one /two; exit 0\n")
    assert b"/two: No such file" in shell.expect(b"No such file")
    shell.wait()
    assert engine.skerry("ps", "-aq").stdout == ""


def test_a_live_tree_on_a_terminal(folder: Path, on_terminal: Callable[..., Terminal]) -> None:
    (folder / "Dockerfile").write_text("FROM busybox AS base\nRUN echo tree-$((1+1)); sleep 0.5\n")
    shown = on_terminal("build", str(folder))
    shown.expect("• RUN echo tree-".encode())
    shown.expect(b"tree-2\r\n")
    shown.expect("✓ RUN echo tree-".encode())
    shown.expect(b"2 steps in")
    assert shown.wait() == 0


def test_an_interrupt_ends_the_build(
    folder: Path, on_terminal: Callable[..., Terminal], engine: Skerry
) -> None:
    (folder / "Dockerfile").write_text("FROM busybox\nRUN echo begun-$((1+1)); sleep 987654\n")
    shown = on_terminal("build", "--no-cache", str(folder))
    shown.expect(b"begun-2\r\n")
    shown.send(b"\x03")
    assert shown.wait() == 130
    # `no_leaks` sees that nothing of the step runs on.
    assert "987654" not in engine.skerry("builder", "du").stdout


def test_secrets_from_files_and_environment(build: Build, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("from-file")
    text = (
        "FROM busybox AS b\n"
        "RUN --mount=type=secret,id=a --mount=type=secret,id=b,env=B "
        "echo $(wc -c < /run/secrets/a) ${#B} > /seen\n"
        "FROM scratch\nCOPY --from=b /seen /\n"
    )
    os.environ["SKERRY_TEST_SECRET"] = "0123"
    try:
        words = ("--secret", f"id=a,src={tmp_path}/s", "--secret", "id=b,env=SKERRY_TEST_SECRET")
        found = output(build, *words, "-o", f"type=tar,dest={tmp_path}/o.tar", text=text)
    finally:
        del os.environ["SKERRY_TEST_SECRET"]
    assert found["seen"] == b"9 4\n"


def test_an_agent_is_forwarded(build: Build, folder: Path, agent: str, tmp_path: Path) -> None:
    """A program of a RUN asks the agent on this side for its keys."""
    program = shutil.which("ssh-add")
    assert program is not None
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    needed = [word for word in listed.split() if word.startswith("/")]
    for path in (program, *needed):
        target = folder / "sys" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    text = (
        "FROM busybox AS b\nCOPY sys /\n"
        f"RUN --mount=type=ssh {program} -L > /keys && {program} -l >> /keys\n"
        "FROM scratch\nCOPY --from=b /keys /\n"
    )
    words = ("--ssh", f"default={agent}", "-o", f"type=tar,dest={tmp_path}/o.tar")
    key = Path(agent).with_name("key.pub").read_bytes().split()[1]
    assert key in output(build, *words, text=text)["keys"]


def test_hostile_contexts(build: Build, folder: Path, tmp_path: Path) -> None:
    (folder / "out").symlink_to("../../../../etc/passwd")
    (folder / "root").symlink_to("/")
    Path(os.fsdecode(os.fsencode(folder / "src") + b"/\xff\xfe")).write_text("odd name")
    words = ("-o", f"type=tar,dest={tmp_path}/o.tar")
    found = output(build, *words, text="FROM scratch\nCOPY . /d/\n")
    # Links are links: what they lead to here is not taken along.
    assert found["d/out"] == found["d/root"] == b""
    assert os.fsdecode(b"d/src/\xff\xfe") in found
    # The engine looks below the context only.
    said = build(text="FROM scratch\nCOPY root/etc/passwd /\n", code=1).stderr
    assert "root/etc/passwd" in said
    os.mknod(folder / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    assert "'device' is a device: it cannot be in a build context" in build(code=1).stderr


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("RUN true\n" * 1_200_000, "lines, at most"),
        ("RUN " + "x" * (10 << 20), "longer than"),
        ("x" * (17 << 20), "bytes, at most"),
    ],
    ids=["lines", "line", "bytes"],
)
def test_a_dockerfile_of_ten_megabytes(build: Build, text: str, why: str) -> None:
    said = build("-q", text="FROM busybox\n" + text, code=1).stderr
    assert why in said
    assert len(said) < 2000


def test_a_dockerfile_that_is_not_text(build: Build, folder: Path) -> None:
    (folder / "Dockerfile").write_bytes(b"FROM busybox\n# caf\xe9\nENV A=1\n")
    build("-q")
    (folder / "Dockerfile").write_bytes(b"FROM busybox\nENV A=caf\xe9\n")
    said = build(code=1).stderr
    assert "line 2: not UTF-8: byte 0xe9" in said
    assert ":2:10\n" in said


def test_cache_in_a_folder(build: Build, tmp_path: Path, engine: Skerry) -> None:
    text = "FROM busybox\nRUN echo unique-to-this-test > /x\n"
    build("-q", "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max", text=text)
    assert (tmp_path / "cache/index.json").exists()
    engine.skerry("builder", "prune", "-af")
    assert " CACHED\n" in build("--cache-from", f"type=local,src={tmp_path}/cache").stderr
    engine.skerry("builder", "prune", "-af")
    assert " CACHED\n" not in build("--cache-from", f"type=local,src={tmp_path}/none").stderr
    nobody = f"localhost:{free_port()}/none"
    assert f"no build cache from {nobody}" in build("--cache-from", nobody).stderr


def test_cache_mounts(build: Build, tmp_path: Path, engine: Skerry) -> None:
    build("-q", text="FROM busybox\nRUN --mount=type=cache,id=t-mine,target=/c echo v > /c/f\n")
    shown = engine.skerry("builder", "mounts", "--format", "{{.ID}} {{.Name}}").stdout.splitlines()
    name = next(line.split()[1] for line in shown if line.startswith("t-mine "))
    engine.skerry("builder", "export", "-o", f"{tmp_path}/m.tar", name)
    with tarfile.open(tmp_path / "m.tar") as archive:
        assert "f" in [each.name.removeprefix("./") for each in archive]
    (tmp_path / "there").mkdir()
    place = tmp_path / "there/mount"
    assert engine.skerry("builder", "place", name, str(place)).stdout.strip() == str(place)
    assert (place / "f").read_text() == "v\n"
    engine.skerry("builder", "rm", name)
    engine.skerry("builder", "import", "t-again", f"{tmp_path}/m.tar")
    shown = engine.skerry("builder", "mounts", "-q").stdout.split()
    assert len(shown) == 1
    engine.skerry("builder", "rm", shown[0])
    assert engine.skerry("builder", "mounts", "-q").stdout == ""


def test_usage_and_prune(build: Build, engine: Skerry) -> None:
    build("-q", text="FROM busybox\nRUN echo for-the-prune > /p\n")
    assert "for-the-prune" in engine.skerry("builder", "du").stdout
    assert engine.skerry("builder", "prune", check=False).returncode == 1
    assert "Deleted build cache objects" in engine.skerry("system", "prune", "-f").stdout
    assert "for-the-prune" not in engine.skerry("builder", "du").stdout
    engine.skerry("builder", "prune", "-af")
    assert engine.skerry("builder", "du", "-q").stdout == ""


def test_from_python(engine: Skerry, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM busybox\nARG A\nRUN echo said-$A\nCOPY src /s\n")
    with Engine(engine.host) as client:
        said: list[str] = []
        image = client.images.build(str(folder), tag="py:1", build_args={"A": "x"}, log=said.append)
        assert "".join(said) == "said-x\n"
        assert "py:1" in image.tags
        with pytest.raises(BuildFailed) as failed:
            client.images.build(text="FROM busybox\nRUN exit 9\n")
        assert failed.value.code == 9
        image.remove(force=True)
