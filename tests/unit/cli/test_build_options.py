"""From the command line of `build` to what is asked of the engine. No engine."""

import base64
import socket
from pathlib import Path

import pytest

from skerry.base.errors import InvalidInput, NotFound
from skerry.cli import build_contexts, build_options
from skerry.cli.options import parse


def body(*words: str) -> dict[str, object]:
    return build_options.body_of(parse(build_options.OPTIONS, list(words)))


def test_plain_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "yes")
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    made = body(
        *("-t", "a", "-t", "b", "--build-arg", "X=1", "--build-arg", "FROM_HERE"),
        *("--build-arg", "GONE", "--label", "l=v", "--target", "t", "--no-cache", "-m", "64m"),
        *("--add-host", "h:1.2.3.4", "--ulimit", "nofile=5:6", "--no-cache-filter", "p,q"),
        *("--shell-on-failure", "--cpu-shares", "7"),
    )
    assert made == {
        "Tags": ["a", "b"],
        "BuildArgs": {"X": "1", "FROM_HERE": "yes", "GONE": None},
        "Labels": {"l": "v"},
        "Target": "t",
        "NoCache": True,
        "NoCacheFilter": ["p", "q"],
        "Allow": [],
        "Memory": 64 << 20,
        "ExtraHosts": ["h:1.2.3.4"],
        "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 6}],
        "KeepFailed": True,
        "CpuShares": 7,
    }


def test_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    assert body()["SourceDateEpoch"] == 5
    assert body("--build-arg", "SOURCE_DATE_EPOCH=7")["SourceDateEpoch"] == 7
    with pytest.raises(InvalidInput, match="no number"):
        body("--build-arg", "SOURCE_DATE_EPOCH=soon")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-o", "dir"], [({"Type": "local"}, "dir", True)]),
        (["-o", "-"], [({"Type": "tar"}, "-", False)]),
        (["-o", "type=tar,dest=x.tar"], [({"Type": "tar"}, "x.tar", False)]),
        (["-o", "type=oci,dest=d,tar=false"], [({"Type": "oci"}, "d", True)]),
        (["-o", "type=docker"], [({"Type": "image"}, "", False)]),
        (["-o", "type=docker,dest=-"], [({"Type": "docker"}, "-", False)]),
        (["-o", "type=image,name=n,push=true"], [({"Type": "registry", "Name": "n"}, "", False)]),
        (["--push", "-t", "r/a"], [({"Type": "registry", "Name": "r/a"}, "", False)]),
        (
            ["-o", "type=image,push=true", "-t", "r/a", "-t", "r/b"],
            [({"Type": "registry", "Name": name}, "", False) for name in ("r/a", "r/b")],
        ),
        (["--rewrite-timestamp"], [({"Type": "image", "RewriteTimestamp": True}, "", False)]),
        (
            ["-o", "type=local,dest=d,rewrite-timestamp=true,compression=uncompressed"],
            [({"Type": "local", "RewriteTimestamp": True, "Compression": "none"}, "d", True)],
        ),
        ([], []),
    ],
)
def test_outputs(words: list[str], expected: list[tuple[dict[str, object], str, bool]]) -> None:
    made = build_options.targets(parse(build_options.OPTIONS, words))
    assert [(each.body, each.place, each.unpack) for each in made] == expected


@pytest.mark.parametrize(
    "words", [["-o", "type=tar,where=x"], ["-o", "dest=x"], ["-o", "type=local"], ["--push"],
              ["-o", "-", "-o", "type=oci"]],
)  # fmt: skip
def test_bad_outputs(words: list[str]) -> None:
    with pytest.raises(InvalidInput):
        build_options.targets(parse(build_options.OPTIONS, words))


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"\x00secret")
    monkeypatch.setenv("TOKEN", "t0k")
    monkeypatch.chdir(tmp_path)
    made = build_options.secrets(
        [
            f"id=a,src={tmp_path}/file",
            "id=b,env=TOKEN",
            "id=TOKEN",
            "id=file",
            "type=env,id=c,src=TOKEN",
        ]
    )
    decoded = {name: base64.b64decode(text) for name, text in made.items()}
    assert decoded == {
        "a": b"\x00secret", "b": b"t0k", "TOKEN": b"t0k", "file": b"\x00secret", "c": b"t0k",
    }  # fmt: skip
    for bad in ("src=x", "id=x,env=NONE", "id=x,src=/none", "id=x,mode=1"):
        with pytest.raises(InvalidInput):
            build_options.secrets([bad])


def test_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(place)
        monkeypatch.setenv("SSH_AUTH_SOCK", place)
        assert build_options.agents(["default", f"x={place}"]) == {"default": place, "x": place}
    (tmp_path / "key").write_text("")
    with pytest.raises(InvalidInput, match="no SSH private key"):
        build_options.agents([f"default={tmp_path}/key"])
    with pytest.raises(InvalidInput, match="stands alone"):
        build_options.agents([f"default={tmp_path}/key,{place}"])
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(InvalidInput, match="no SSH agent"):
        build_options.agents(["default"])


def test_caches(tmp_path: Path) -> None:
    words = [
        *("--cache-from", "r/a", "--cache-from", f"type=local,src={tmp_path}"),
        *("--cache-from", f"type=local,src={tmp_path}/none"),
        *("--cache-to", "type=inline", "--cache-to", "type=local,dest=out,mode=max"),
    ]
    made = build_options.Caches(parse(build_options.OPTIONS, words))
    assert made.sources == [{"Type": "registry", "Ref": "r/a"}, {"Type": "local", "Name": "0"}]
    assert made.sent == {"0": str(tmp_path)}
    assert made.targets[0]["Type"] == "inline"
    assert made.targets[1] == {"Type": "local", "Mode": "max", "Name": "1"}
    assert made.taken == {1: "out"}


@pytest.mark.parametrize(
    "address", ["https://x/y.git", "http://x/a.tar", "git://x", "git@h:x.git", "github.com/a/b"]
)
def test_addresses_are_the_engines(address: str) -> None:
    assert build_contexts.is_remote(address)
    made = build_contexts.gather(parse(build_options.OPTIONS, ["-f", "sub/File"]), address)
    assert made.body == {"Remote": address, "Dockerfile": "sub/File"}
    assert made.archives == {}


def test_named_contexts(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    words = ["--build-context", "a=docker-image://busybox", "--build-context", f"b={tmp_path}"]
    words += ["--build-context", "c=target:one", "--build-context", "d=https://host/x.git#main:s"]
    made = build_contexts.gather(parse(build_options.OPTIONS, words), str(tmp_path))
    assert made.body["Contexts"] == {
        "a": "docker-image://busybox",
        "c": "target:one",
        "d": "https://host/x.git#main:s",
    }
    assert sorted(made.archives) == ["b", "default"]
    with pytest.raises(NotFound, match="cannot read"):
        build_contexts.gather(
            parse(build_options.OPTIONS, ["--build-context", "x=oci-layout://y"]), str(tmp_path)
        )
    for bad in ("x", "x=", "=y"):
        with pytest.raises(InvalidInput):
            build_contexts.gather(
                parse(build_options.OPTIONS, ["--build-context", bad]), str(tmp_path)
            )


@pytest.mark.parametrize(
    ("first", "archive"),
    [(b"FROM x", False), (b"\x1f\x8b\x08", True), (bytes(257) + b"ustar  ", True), (b"", False)],
)
def test_archives_by_their_first_bytes(first: bytes, archive: bool) -> None:
    assert build_contexts.is_archive(first) is archive
