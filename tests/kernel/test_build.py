"""Builds on a real kernel: what steps see, what they leave, what the cache knows."""

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.daemons import Skerry
from bench.ports import free_port
from tests.kernel.building import Client, Connection, Result, archive, content, names

from skerry.store.tar_reader import FILE, Entry
from skerry.store.tar_writer import header

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture(scope="module")
def client(engine: Skerry, no_leaks: None) -> Client:
    return Client(engine.socket)


def in_image(engine: Skerry, image: str, *command: str) -> str:
    return str(engine.docker("run", "--rm", "--network", "none", image, *command).stdout)


def config(client: Client, image: str) -> dict[str, Any]:
    status, found = client.call("GET", f"/images/{image}/json")
    assert status == 200
    return dict(found["Config"])


def test_steps_are_cached_by_what_they_read(client: Client) -> None:
    text = "FROM busybox\nCOPY a /a\nRUN cat /a > /b\nCOPY c /c\n"
    files = {"a": b"1", "c": b"2", "unread": b"3"}
    assert client.build(text, files).cached == [False, False, False]
    assert client.build(text, files).cached == [True, True, True]
    assert client.build(text, files | {"unread": b"x"}).cached == [True, True, True]
    changed = client.build(text, files | {"c": b"x"})
    assert changed.cached == [True, True, False]
    assert changed.of("running")[0]["why"] == "c changed"
    changed = client.build(text, files | {"a": b"x"})
    assert changed.cached == [False, False, False]
    why = [each["why"].partition(";")[0] for each in changed.of("running")]
    assert why == ["a changed", "the layers below it changed", "the layers below it changed"]
    # Another Dockerfile, the same step.
    assert client.build("FROM busybox AS z\nUSER 5\nCOPY a /a\n", files).cached == [True]
    assert client.build(text, files, NoCache=True).cached == [False, False, False]


def test_an_argument_is_seen_counts_and_is_not_kept(client: Client, engine: Skerry) -> None:
    text = "FROM busybox\nARG WORD\nRUN echo $WORD $HTTP_PROXY > /word\n"
    first = client.build(text, BuildArgs={"WORD": "one", "HTTP_PROXY": "secretproxy"})
    assert in_image(engine, first.image, "cat", "/word") == "one secretproxy\n"
    assert "WORD" not in str(config(client, first.image)["Env"])
    again = client.build(text, BuildArgs={"WORD": "one", "HTTP_PROXY": "q"})
    assert again.cached == [True]
    assert "secretproxy" not in json.dumps(client.call("GET", f"/images/{first.image}/history")[1])
    other = client.build(text, BuildArgs={"WORD": "two"})
    assert other.of("running")[0]["why"] == "a build argument changed"


def test_unneeded_stages_are_not_built_and_others_run_side_by_side(client: Client) -> None:
    # Each of the two waits for the other, through a cache mount.
    meet = (
        "RUN --mount=type=cache,id=meet-{salt},target=/m touch /m/{own}; n=0; "
        "until [ -e /m/{other} ]; do n=$((n+1)); [ $n -lt 2000 ] || exit 1; sleep 0.05; done\n"
    )
    salt = os.urandom(4).hex()
    text = (
        "FROM busybox AS unneeded\nRUN false\n"
        "FROM busybox AS left\n" + meet.format(salt=salt, own="l", other="r") + "RUN echo l > /l\n"
        "FROM busybox AS right\n" + meet.format(salt=salt, own="r", other="l") + "RUN echo r > /r\n"
        "FROM scratch\nCOPY --from=left /l /\nCOPY --from=right /r /\n"
    )
    built = client.build(text, keep=True, Outputs=[{"Type": "tar"}])
    try:
        assert built.events[-1]["kind"] == "result", built.events[-1]
        assert {each["step"].partition(".")[0] for each in built.of("started")} == {"1", "2", "3"}
        assert names(client.take(built.id)) == ["l", "r"]
    finally:
        client.close(built.id)


def test_mounts(client: Client, engine: Skerry) -> None:
    salt = os.urandom(4).hex()
    text = f"""FROM busybox AS other
RUN mkdir /made && echo made > /made/file
FROM busybox
WORKDIR /work
RUN --mount=type=cache,id=c-{salt},target=/cache,mode=0700,uid=7 echo kept > /cache/f && \\
    ls -ldn /cache
RUN --mount=type=cache,id=c-{salt},target=cache cat /work/cache/f
RUN --mount=target=/ctx cat /ctx/in && ! touch /ctx/x
RUN --mount=from=other,source=/made,target=/o,rw cat /o/file && echo x > /o/file
RUN --mount=from=other,source=/made,target=/o cat /o/file
RUN --mount=type=tmpfs,target=/t,size=64k ! dd if=/dev/zero of=/t/f bs=1k count=100 2>/dev/null
RUN --mount=type=secret,id=key,mode=0440,gid=9 cat /run/secrets/key; ls -ln /run/secrets/key
RUN --mount=type=secret,id=key,env=KEY echo "env $KEY"
RUN --mount=type=secret,id=none test ! -e /run/secrets/none
"""
    built = client.build(text, {"in": b"context\n"}, secrets={"key": b"hush\n"})
    image = built.image
    lines = built.output.splitlines()
    assert lines[0].startswith("drwx------") and " 7 " in lines[0]
    assert lines[1:5] == ["kept", "context", "touch: /ctx/x: Read-only file system", "made"]
    assert lines[5:7] == ["made", "hush"]
    assert lines[7].startswith("-r--r-----") and " 9 " in lines[7]
    assert lines[8] == "env hush"
    assert "hush" not in json.dumps(client.call("GET", f"/images/{image}/history")[1])
    # Nothing of the mounts stays, not even the places where they were.
    before = in_image(engine, "busybox", "ls", "/").split()
    assert set(in_image(engine, image, "ls", "/").split()) == {*before, "work"}
    missing = client.build("FROM busybox\nRUN --mount=type=secret,id=x,required true\n")
    assert "secret x: not found" in missing.error["message"]


def test_locked_caches_are_taken_in_turn(client: Client) -> None:
    salt = os.urandom(4).hex()
    run = (
        f"RUN --mount=type=cache,id=l-{salt},target=/c,sharing=locked "
        "[ ! -e /c/busy ] && touch /c/busy && sleep 0.2 && rm /c/busy\n"
    )
    text = f"FROM busybox AS a\n{run}FROM busybox AS b\n{run}RUN true\nFROM a\n"
    text += "COPY --from=b /bin/true /x\n"
    assert client.build(text).events[-1]["kind"] == "result"


def test_a_failed_step_is_the_programs_fault(client: Client) -> None:
    built = client.build("FROM busybox\nRUN echo said; exit 42\nRUN never\n")
    assert (built.error["code"], built.error["step"]) == (42, "0.1")
    assert built.output == "said\n"
    built = client.build("FROM busybox\nUSER nobody-here\nRUN true\n")
    assert "unable to find user nobody-here" in built.error["message"]
    built = client.build('FROM busybox\nRUN ["/no/such"]\n')
    assert "no such file" in built.error["message"].lower()


def test_a_shell_opens_where_a_step_failed(client: Client, engine: Skerry) -> None:
    salt = os.urandom(4).hex()
    text = (
        "FROM busybox\nENV A=env\nWORKDIR /w\nARG B=arg\n"
        f"RUN --mount=type=cache,id=s-{salt},target=/c echo cached > /c/f; echo left > f; false\n"
    )
    built = client.build(text, keep=True, KeepFailed=True)
    try:
        assert built.error["code"] == 1
        status, made = client.call("POST", f"/skerry/builds/{built.id}/shell", {})
        assert status == 201, made
        done = engine.docker(
            "start", "-ai", made["Id"], stdin=b"cat f /c/f; echo $A-$B; pwd; exit 3\n", check=False
        )
        found = [line.strip() for line in done.stdout.splitlines()]
        assert {"left", "cached", "env-arg", "/w"} <= set(found), done
    finally:
        client.close(built.id)
    # And where one went well, by its key.
    built = client.build("FROM busybox\nENV A=1\nRUN echo recorded > /r\n")
    key = built.of("done")[-1]["key"]
    status, made = client.call("POST", f"/skerry/build/shell?step={key}", {})
    assert status == 201, made
    done = engine.docker("start", "-ai", made["Id"], stdin=b"cat /r; echo $A; exit\n", check=False)
    assert {"recorded", "1"} <= {line.strip() for line in done.stdout.splitlines()}


def test_listing_runs_nothing(client: Client) -> None:
    text = f"FROM busybox\nRUN echo {os.urandom(4).hex()}\nRUN true\n"
    listed = client.build(text, ListSteps=True)
    assert [each["step"] for each in listed.of("missing")] == ["0.1"]
    assert not listed.of("log")
    client.build(text)
    listed = client.build(text, ListSteps=True)
    assert not listed.of("missing")
    assert len([each for each in listed.of("done") if each.get("key")]) == 2


def digests(client: Client, built: Result) -> tuple[str, list[str]]:
    _, found = client.call("GET", f"/images/{built.image}/json")
    return built.image, found["RootFS"]["Layers"]


def test_builds_can_be_repeated_to_the_byte(client: Client, own_engine: Skerry) -> None:
    text = (
        "FROM busybox AS b\nRUN mkdir /d && echo x > /d/x && ln -s x /d/y && touch /d/.h\n"
        "FROM scratch\nCOPY --from=b /d /d\nCOPY f /sub/f\nWORKDIR /w\nENV A=1\n"
    )
    options: dict[str, Any] = {
        "SourceDateEpoch": 1_700_000_000,
        "Outputs": [{"Type": "image", "RewriteTimestamp": True}],
    }
    files = {"f": b"f"}
    first = digests(client, client.build(text, files, **options))
    assert first == digests(client, client.build(text, files, NoCache=True, **options))
    own = Client(own_engine.socket)
    assert first == digests(own, own.build(text, files, **options))
    _, found = client.call("GET", f"/images/{first[0]}/json")
    assert found["Created"] == "2023-11-14T22:13:20Z"
    _, history = client.call("GET", f"/images/{first[0]}/history")
    assert {each["Created"] for each in history} == {1_700_000_000}


def test_results_are_taken_as_archives(client: Client, engine: Skerry) -> None:
    kinds = ["tar", "local", "oci", "docker"]
    built = client.build(
        "FROM scratch\nCOPY f /d/f\nLABEL a=b\n",
        {"f": b"content"},
        keep=True,
        Outputs=[{"Type": kind, "Name": "taken:1"} for kind in kinds],
    )
    try:
        assert built.events[-1]["image"] == ""
        for number in ("0", "1"):
            assert content(client.take(built.id, number), "d/f") == b"content"
        oci = client.take(built.id, "2")
        index = json.loads(content(oci, "index.json"))
        assert (
            index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "taken:1"
        )
        loaded = engine.docker("load", stdin=client.take(built.id, "3")).stdout
        assert "taken:1" in loaded
        assert config(client, "taken:1")["Labels"] == {"a": "b"}
    finally:
        client.close(built.id)
        engine.docker("rmi", "-f", "taken:1", check=False)


def test_an_archive_has_the_builds_name_unless_it_has_one(client: Client, engine: Skerry) -> None:
    text = "FROM scratch\nCOPY f /\n"
    built = client.build(text, {"f": b""}, keep=True, Tags=["taken:2"], Outputs=[{"Type": "oci"}])
    try:
        index = json.loads(content(client.take(built.id), "index.json"))
        (name,) = index["manifests"][0]["annotations"].values()
        assert name == "taken:2"
    finally:
        client.close(built.id)
        engine.docker("rmi", "-f", "taken:2")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_cache_travels_in_a_folder(client: Client, own_engine: Skerry, mode: str) -> None:
    text = "FROM busybox AS a\nRUN echo a > /a\nFROM busybox\nCOPY --from=a /a /b\nRUN cat /b\n"
    cache = [{"Type": "local", "Name": "c", "Mode": mode}]
    built = client.build(text, keep=True, CacheTo=cache)
    try:
        taken = client.take(built.id, "cache-0")
    finally:
        client.close(built.id)
    elsewhere = Client(own_engine.socket).build(text, contexts={"cache:c": taken}, CacheFrom=cache)
    # The bases are equal, so are the keys; what only a copy read is not in a small cache.
    assert elsewhere.cached[0] is (mode == "max")
    damaged = taken.replace(b'"version":1', b'"version":7')
    bad = Client(own_engine.socket).build(text, contexts={"cache:c": damaged}, CacheFrom=cache)
    assert "digest" in bad.error["message"] or "cache" in bad.error["message"]


def test_add_unpacks_archives_and_nothing_else(client: Client, engine: Skerry) -> None:
    plain = archive({"in/file": b"packed", "in/link": "/etc/passwd"})
    files: dict[str, bytes | str] = {"plain.tar": plain, "not.tar": b"text"}
    for name, program in (("t.gz", "gzip"), ("t.bz2", "bzip2"), ("t.xz", "xz"), ("t.zst", "zstd")):
        packed = subprocess.run([program, "-c"], input=plain, capture_output=True, check=True)
        files[name] = packed.stdout
    adds = "".join(f"ADD {name} /{name}/\n" for name in files)
    image = client.build(f"FROM busybox\n{adds}COPY t.gz /copied/\n", files).image
    found = in_image(engine, image, "sh", "-c", "cat /*/in/file; cat /not.tar/not.tar; ls /copied")
    assert found == "packed" * 5 + "text" + "t.gz\n"
    hostile = archive({"../../escaped": b"x"})
    refused = client.build("FROM busybox\nADD evil.tar /\n", {"evil.tar": hostile})
    assert "leads out of" in refused.error["message"]


def test_what_a_layer_holds_is_only_the_change(client: Client, engine: Skerry) -> None:
    text = "FROM busybox\nRUN rm /bin/vi && mkdir /bin/new && chown 5:6 /bin/new\nRUN true\n"
    built = client.build(text, keep=True, Outputs=[{"Type": "tar"}])
    try:
        assert "bin/vi" not in names(client.take(built.id))
        assert "bin/ls" in names(client.take(built.id))
        layers = [each["layer"] for each in built.of("done") if "key" in each]
        assert layers[1] == ""
    finally:
        client.close(built.id)


def test_a_linked_copy_does_not_read_what_is_below(client: Client) -> None:
    files = {"f": os.urandom(8)}
    text = "FROM busybox\nRUN echo {} > /x\nCOPY --link f /linked/f\nCOPY f /plain/f\n"
    assert client.build(text.format("one"), files).cached == [False, False, False]
    assert client.build(text.format("two"), files).cached == [False, True, False]


def test_owners_are_looked_up_in_the_image(client: Client, engine: Skerry) -> None:
    text = (
        "FROM busybox\nRUN echo me:x:77:77::/:/bin/sh >> /etc/passwd; echo us:x:88: >> /etc/group\n"
        "COPY --chown=me:us f /a\nCOPY --chown=me f /b\nCOPY --chown=5 f /c\nCOPY f /d\n"
    )
    image = client.build(text, {"f": b""}).image
    assert in_image(engine, image, "stat", "-c", "%u:%g", "/a", "/b", "/c", "/d").split() == [
        "77:88", "77:77", "5:5", "0:0",
    ]  # fmt: skip
    missing = client.build("FROM busybox\nCOPY --chown=nobody-here f /\n", {"f": b""})
    assert "unable to find user nobody-here" in missing.error["message"]


def test_a_fork_bomb_ends_and_output_is_cut(client: Client) -> None:
    bomb = client.build("FROM busybox\nRUN b() { b | b & }; b; sleep 1; exit 9\n", PidsLimit=100)
    assert bomb.error["code"] != 0
    noisy = client.build("FROM busybox\nRUN yes | head -c 5000000; echo; echo end\n", NoCache=True)
    assert len(noisy.output) < 2_200_000
    assert "[output clipped, log limit 2MiB reached]" in noisy.output
    assert noisy.output.endswith("end\n")


def test_privileges_have_to_be_allowed(client: Client) -> None:
    text = "FROM busybox\nRUN --security=insecure mount -t tmpfs x /tmp && echo mounted\n"
    assert "not allowed" in client.build(text).error["message"]
    assert client.build(text, Allow=["security.insecure"]).output == "mounted\n"
    text = "FROM busybox\nRUN --network=none ip -o addr | wc -l\nRUN --network=host true\n"
    assert "not allowed" in client.build(text).error["message"]


def test_an_agent_can_be_reached_and_its_key_stays_away(client: Client) -> None:
    text = "FROM busybox\nRUN --mount=type=ssh,id=a test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK\n"
    assert client.build(text, SSH=["a"]).output == "/run/buildkit/ssh_agent.0\n"
    missing = client.build(text.replace("id=a", "id=a,required"))
    assert "ssh agent a: not found" in missing.error["message"]


def test_another_platform_is_refused_where_it_would_run(client: Client) -> None:
    refused = client.build("FROM --platform=linux/s390x scratch\nRUN true\n")
    assert "cannot run programs for linux/s390x" in refused.error["message"]
    built = client.build("FROM --platform=linux/s390x scratch\nCOPY f /\n", {"f": b""})
    _, found = client.call("GET", f"/images/{built.image}/json")
    assert found["Architecture"] == "s390x"


def test_squash_keeps_what_is_seen(client: Client, engine: Skerry) -> None:
    text = "FROM busybox\nRUN echo a > /a; echo b > /b\nRUN rm /a /bin/vi; echo c > /c\n"
    image = client.build(text, Squash=True).image
    _, found = client.call("GET", f"/images/{image}/json")
    _, base = client.call("GET", "/images/busybox/json")
    assert len(found["RootFS"]["Layers"]) == len(base["RootFS"]["Layers"]) + 1
    listed = in_image(engine, image, "sh", "-c", "cat /b /c; ls /a /bin/vi 2>&1 | wc -l")
    assert listed == "b\nc\n2\n"


def test_a_context_may_have_a_hundred_thousand_files(client: Client) -> None:
    entry = Entry("", FILE, 0o644, 0, 0, 0, 0, "", 0, 0, {}, None)
    headers = [header(entry._replace(name=f"d{n % 300}/f{n}")) for n in range(100_000)]
    data = b"".join(headers) + archive({"Dockerfile": b"FROM scratch\nCOPY d7 /d7\n"})
    built = client.build("", contexts={"default": data}, Outputs=[{"Type": "tar"}])
    assert built.events[-1]["kind"] == "result"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback that serves a folder, counts requests and knows ETags."""
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("If-None-Match")))
            if self.headers.get("If-None-Match") == '"v1"':
                self.send_response(304)
                self.end_headers()
                return
            data = (tmp_path / self.path.strip("/")).read_bytes()
            self.send_response(200)
            self.send_header("ETag", '"v1"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    seen: list[tuple[str, str | None]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_add_fetches_urls_once(client: Client, engine: Skerry, web: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"fetched")
    text = f"FROM busybox\nADD {web}/file /x/\n"
    image = client.build(text).image
    assert in_image(engine, image, "stat", "-c", "%a %s", "/x/file") == "600 7\n"
    (tmp_path / "file").write_bytes(b"changed, which its ETag hides")
    assert client.build(text).cached == [True]
    wrong = f"FROM busybox\nADD --checksum=sha256:{'0' * 64} {web}/file /x/\n"
    assert "digest is sha256:" in client.build(wrong).error["message"]
    gone = client.build(f"FROM busybox\nADD {web}/../nothing /x/\n")
    assert gone.error["message"].startswith("http")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A git repository behind a git daemon on loopback; its URL and a commit."""
    folder = tmp_path / "served" / "repo.git"
    folder.mkdir(parents=True)
    who = ("-c", "user.name=t", "-c", "user.email=t@t")

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    (folder / "Dockerfile").write_text("FROM busybox\nCOPY . /\n")
    (folder / ".dockerignore").write_text("Dockerfile\n*.md\n")
    (folder / "README.md").write_text("ignored")
    (folder / "sub").mkdir()
    (folder / "sub" / "f").write_text("from git")
    git("add", "-A")
    git("commit", "-qm", "x")
    port = free_port()
    words = ["git", "daemon", "--export-all", f"--base-path={folder.parent}", "--reuseaddr"]
    daemon = subprocess.Popen([*words, "--listen=127.0.0.1", f"--port={port}"])
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < deadline, "git daemon does not listen"
            time.sleep(0.02)
        yield f"git://127.0.0.1:{port}/repo.git", git("rev-parse", "HEAD")
    finally:
        daemon.terminate()
        daemon.wait()


def test_git_gives_contexts_and_sources(
    client: Client, engine: Skerry, repository: tuple[str, str]
) -> None:
    url, commit = repository
    text = f"FROM busybox\nADD {url}#main /all/\nADD --checksum={commit} {url}#main:sub /part/\n"
    image = client.build(text).image
    listed = in_image(engine, image, "sh", "-c", "ls -A /all /part; cat /part/f")
    assert listed == "/all:\n.dockerignore\nDockerfile\nREADME.md\nsub\n\n/part:\nf\nfrom git"
    with contextlib.closing(Connection(client.path)) as connection:
        connection.request("POST", f"/build?remote={url}%23main&t=fromgit")
        assert b"Successfully tagged fromgit" in connection.getresponse().read()
    assert in_image(engine, "fromgit", "cat", "/sub/f") == "from git"
    assert not {"README.md", "Dockerfile"} & set(in_image(engine, "fromgit", "ls", "/").split())
    engine.docker("rmi", "-f", "fromgit")
    wrong = client.build(f"FROM busybox\nADD --checksum={'0' * 40} {url} /x\n")
    assert "is commit" in wrong.error["message"]
    missing = client.build(f"FROM busybox\nADD {url}#nowhere /x\n")
    assert "nowhere" in missing.error["message"]


def test_cache_mounts_are_listed_moved_and_carried(client: Client, tmp_path: Path) -> None:
    name = f"carry-{os.urandom(4).hex()}"
    client.build(f"FROM busybox\nRUN --mount=type=cache,id={name},target=/c echo x > /c/f\n")
    _, listed = client.call("GET", "/skerry/build/mounts")
    (mount,) = [each for each in listed if each["Id"] == name]
    assert (mount["InUse"], mount["UsageCount"]) == (False, 1)
    _, packed = client.call("GET", f"/skerry/build/mounts/{name}/archive")
    assert content(packed, "./f") == b"x\n"
    target = tmp_path / "elsewhere"
    status, moved = client.call("POST", f"/skerry/build/mounts/{name}/place?path={target}")
    assert (status, moved["Placed"]) == (200, True)
    assert (target / "f").read_bytes() == b"x\n"
    text = f"FROM busybox\nRUN --mount=type=cache,id={name},target=/c cat /c/f\n"
    assert client.build(text).output == "x\n"
    status, _ = client.call("PUT", f"/skerry/build/mounts/{name}-2/archive", raw=packed)
    assert status == 201
    assert client.build(text.replace(name, f"{name}-2")).output == "x\n"
    for each in (name, f"{name}-2"):
        assert client.call("DELETE", f"/skerry/build/mounts/{each}")[0] == 204


def test_the_account_of_the_disk_adds_up(client: Client) -> None:
    client.build(f"FROM busybox\nRUN head -c 300000 /dev/urandom > /r{os.urandom(3).hex()}\n")
    _, usage = client.call("GET", "/skerry/usage")
    assert usage["total"] == sum(each["bytes"] for each in usage["categories"].values())
    assert usage["categories"]["build cache"]["items"] > 0
    _, found = client.call("GET", "/system/df")
    assert any(each["Description"].startswith("RUN") for each in found["BuildCache"])
    status, pruned = client.call("POST", "/build/prune?all=1")
    assert status == 200 and pruned["CachesDeleted"]
    _, found = client.call("GET", "/system/df")
    assert found["BuildCache"] == []
