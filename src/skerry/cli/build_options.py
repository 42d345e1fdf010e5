"""From the options of `build` to the body of POST /skerry/builds, and what the client does itself.

`--output`, `--secret`, `--cache-to` and their kin are comma-separated `key=value`, as with Docker.
"""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput
from skerry.base.settings import add_site_packages
from skerry.cli.mounts import parse_ulimit
from skerry.cli.options import Option, Parsed, many, number, switch, text
from skerry.cli.values import key_values, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skerry.sdk.ssh_agent import KeyAgent

MAX_SECRET = 500 << 10
_TEXTS = {"target": "Target", "platform": "Platform", "network": "Network"}
_HOST_TEXTS = {
    "cgroup-parent": "CgroupParent",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
}
_HOST_NUMBERS = {
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-shares": "CpuShares",
    "pids-limit": "PidsLimit",
}
_HOST_SIZES = {
    "memory": "Memory",
    "memory-swap": "MemorySwap",
    "shm-size": "ShmSize",
    "disk-limit": "DiskLimit",
}
_HOST_LISTS = {"add-host": "ExtraHosts", "security-opt": "SecurityOpt"}
_SWITCHES = {
    "pull": "Pull",
    "no-cache": "NoCache",
    "squash": "Squash",
    "check": "Check",
    "list-steps": "ListSteps",
    "shell-on-failure": "KeepFailed",
}
PACKED = ("local", "tar", "oci", "docker")
"""Output types that the client takes away."""


class Target:
    """An output as the client sees it: `place` is a folder, a file or `-`; `unpack` is set for a
    folder."""

    def __init__(self, body: dict[str, Any], place: str = "", *, unpack: bool = False) -> None:
        self.body = body
        self.place = place
        self.unpack = unpack


def body_of(parsed: Parsed) -> dict[str, Any]:
    """The options that need nothing of this machine but the environment."""
    body: dict[str, Any] = {
        "Tags": parsed.many("tag"),
        "BuildArgs": build_args(parsed.many("build-arg")),
        "Labels": key_values(parsed.many("label"), "label"),
        "NoCacheFilter": _split(parsed.many("no-cache-filter")),
        "Allow": _split(parsed.many("allow")),
    }
    for table, read in (
        (_TEXTS, parsed.text),
        (_HOST_TEXTS, parsed.text),
        (_HOST_LISTS, parsed.many),
        (_HOST_NUMBERS, parsed.number),
        (_SWITCHES, parsed.on),
    ):
        body |= {key: read(name) for name, key in table.items() if name in parsed.given}
    for name, key in _HOST_SIZES.items():
        if name in parsed.given:
            body[key] = parse_size(parsed.text(name), name)
    if "ulimit" in parsed.given:
        body["Ulimits"] = [parse_ulimit(item) for item in parsed.many("ulimit")]
    epoch = body["BuildArgs"].get("SOURCE_DATE_EPOCH") or os.environ.get("SOURCE_DATE_EPOCH")
    if epoch:
        if not (epoch.isascii() and epoch.isdigit() and len(epoch) < 12):
            raise InvalidInput(f"SOURCE_DATE_EPOCH is no number of seconds: {epoch!r:.40}")
        body["SourceDateEpoch"] = int(epoch)
    return body


def _split(items: list[str]) -> list[str]:
    return [part.strip() for item in items for part in item.split(",") if part.strip()]


def build_args(items: list[str]) -> dict[str, str | None]:
    """`NAME=value`; `NAME` alone takes this process's value, or takes the argument away."""
    found: dict[str, str | None] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name:
            raise InvalidInput(f"invalid build argument: {item!r:.80}")
        found[name] = value if equals else os.environ.get(name)
    return found


def fields(item: str, what: str, known: tuple[str, ...]) -> dict[str, str]:
    """`key=value,key=value`; a key alone is `true`. InvalidInput for unknown keys."""
    found = {}
    for part in item.split(","):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if key not in known:
            raise InvalidInput(
                f"invalid {what} {item!r:.120}: unknown key {key!r:.40}",
                hint="known are " + ", ".join(known),
            )
        found[key] = value if equals else "true"
    return found


def _true(value: str) -> bool:
    return value.lower() in ("true", "1", "t")


_OUTPUT_KEYS = (
    *("type", "dest", "name", "push", "rewrite-timestamp", "compression", "tar"),
    *("oci-mediatypes", "force-compression", "unpack", "store"),
)


def targets(parsed: Parsed) -> list[Target]:
    """`--output`, `--push`, `--load`: none is the engine's store."""
    found = [each for item in parsed.many("output") for each in _named(_target(item), parsed)]
    rewrite = parsed.on("rewrite-timestamp")
    if parsed.on("push"):
        if not parsed.many("tag"):
            raise InvalidInput("--push needs a --tag that says where")
        found += [Target({"Type": "registry", "Name": name}) for name in parsed.many("tag")]
    if parsed.on("load") or (rewrite and not found):
        found.append(Target({"Type": "image"}))
    for each in found:
        if rewrite:
            each.body["RewriteTimestamp"] = True
    if sum(each.place == "-" for each in found) > 1:
        raise InvalidInput("only one output can go to standard output")
    return found


def _named(target: Target, parsed: Parsed) -> list[Target]:
    """A push without a name goes where the tags say."""
    if target.body["Type"] != "registry" or target.body.get("Name"):
        return [target]
    return [Target({**target.body, "Name": name}) for name in parsed.many("tag")] or [target]


def _target(item: str) -> Target:
    if "=" not in item:
        if item == "-":
            return Target({"Type": "tar"}, "-")
        return Target({"Type": "local"}, item, unpack=True)
    given = fields(item, "output", _OUTPUT_KEYS)
    kind = given.get("type", "")
    if not kind:
        raise InvalidInput(f"invalid output {item!r:.120}: type is missing")
    body: dict[str, Any] = {"Type": kind}
    if "name" in given:
        body["Name"] = given["name"]
    if "compression" in given:
        body["Compression"] = {"uncompressed": "none"}.get(
            given["compression"], given["compression"]
        )
    if _true(given.get("rewrite-timestamp", "")):
        body["RewriteTimestamp"] = True
    if kind == "docker" and "dest" not in given:
        # As with buildx: it is loaded.
        body["Type"] = kind = "image"
    if kind == "image" and _true(given.get("push", "")):
        body["Type"] = kind = "registry"
    if kind not in PACKED:
        return Target(body)
    unpack = kind == "local" or not _true(given.get("tar", "true"))
    place = given.get("dest", "" if unpack else "-")
    if not place:
        raise InvalidInput(f"invalid output {item!r:.120}: dest is missing")
    return Target(body, place, unpack=unpack)


def secrets(items: list[str]) -> dict[str, str]:
    """`id=ID[,src=FILE|,env=NAME]`: contents in base64. An id alone is an environment variable of
    this name, or a file."""
    from binascii import b2a_base64

    found = {}
    for item in items:
        given = fields(item, "secret", ("id", "src", "source", "env", "type"))
        if not given.get("id"):
            raise InvalidInput(f"invalid secret {item!r:.80}: id is missing")
        file, name = given.get("src") or given.get("source") or "", given.get("env", "")
        if not name and (given.get("type") == "env" or not file):
            bare = file or given["id"]
            if given.get("type") == "env" or (given.get("type") != "file" and bare in os.environ):
                name = bare
            else:
                file = bare
        found[given["id"]] = b2a_base64(_secret(given["id"], file, name), newline=False).decode()
    return found


def _secret(secret: str, file: str, name: str) -> bytes:
    if name:
        if name not in os.environ:
            raise InvalidInput(f"secret {secret}: there is no environment variable {name}")
        return os.fsencode(os.environ[name])
    try:
        with open(file, "rb") as opened:
            data = opened.read(MAX_SECRET + 1)
    except OSError as error:
        raise InvalidInput(f"secret {secret}: cannot read {file}: {error.strerror}") from None
    if len(data) > MAX_SECRET:
        raise InvalidInput(f"secret {secret}: {file} has more than {MAX_SECRET} bytes")
    return data


def agents(items: list[str]) -> dict[str, str | KeyAgent]:
    """`default`, `ID=SOCKET` or `ID=KEY,KEY`: id to the SSH agent's socket, or to an agent that has
    the keys of these files."""
    found: dict[str, str | KeyAgent] = {}
    for item in items:
        name, _, place = item.partition("=")
        place = place or os.environ.get("SSH_AUTH_SOCK", "")
        if not place:
            raise InvalidInput(
                f"--ssh {name}: no SSH agent", hint="start ssh-agent, or say ID=SOCKET or ID=FILE"
            )
        import stat

        places = place.split(",")
        try:
            sockets = [stat.S_ISSOCK(os.stat(each).st_mode) for each in places]
        except OSError as error:
            raise InvalidInput(f"--ssh {name}: {error.filename}: {error.strerror}") from None
        if any(sockets):
            if len(places) > 1:
                raise InvalidInput(f"--ssh {name}: an agent's socket stands alone")
            found[name] = place
        else:
            add_site_packages()
            from skerry.sdk.ssh_agent import KeyAgent

            found[name] = KeyAgent(places)
    return found


def known_hosts() -> str:
    """What this user knows of hosts that are reached by ssh; empty without a file."""
    try:
        with open(os.path.expanduser("~/.ssh/known_hosts"), "rb") as file:
            return file.read(MAX_SECRET).decode("utf-8", "replace")
    except OSError:
        return ""


class Caches:
    """`--cache-from` and `--cache-to`. `sent` are local folders that go along as contexts, `taken`
    the folders for exports, by their place in the list."""

    def __init__(self, parsed: Parsed) -> None:
        self.sent: dict[str, str] = {}
        self.taken: dict[int, str] = {}
        self.sources = [body for item in parsed.many("cache-from") if (body := self._from(item))]
        self.targets = [self._to(item, at) for at, item in enumerate(parsed.many("cache-to"))]

    def _from(self, item: str) -> dict[str, str]:
        if "=" not in item:
            return {"Type": "registry", "Ref": item}
        given = fields(item, "cache-from", ("type", "ref", "src", "digest", "tag"))
        if given.get("type") != "local":
            return {"Type": given.get("type", "registry"), "Ref": given.get("ref", "")}
        if not given.get("src"):
            raise InvalidInput(f"invalid cache-from {item!r:.80}: src is missing")
        if not os.path.isdir(given["src"]):
            # The first build of all has nothing to begin with.
            return {}
        name = str(len(self.sent))
        self.sent[name] = given["src"]
        return {"Type": "local", "Name": name}

    def _to(self, item: str, at: int) -> dict[str, str]:
        if "=" not in item:
            return {"Type": "registry", "Ref": item}
        given = fields(
            item,
            "cache-to",
            ("type", "ref", "dest", "mode", "compression", "oci-mediatypes", "image-manifest"),
        )
        body = {"Type": given.get("type", "registry"), "Mode": given.get("mode", "min")}
        if body["Type"] == "local":
            if not given.get("dest"):
                raise InvalidInput(f"invalid cache-to {item!r:.80}: dest is missing")
            self.taken[at] = given["dest"]
            return body | {"Name": str(at)}
        return body | {"Ref": given.get("ref", "")}


OPTIONS: tuple[Option, ...] = (
    text("file", "The Dockerfile (default CONTEXT/Dockerfile); - is standard input", "FILE", "f",
         "files"),
    many("tag", "Name the image", "NAME[:TAG]", "t"),
    many("build-arg", "Give an ARG a value; NAME alone takes it from the environment",
         "NAME[=VALUE]"),
    many("label", "A label of the image", "NAME=VALUE"),
    text("target", "The stage to build (default the last)", "STAGE"),
    text("platform", "Platform of the image: linux/amd64", "OS/ARCH"),
    switch("pull", "Look for newer bases, also when they are here"),
    switch("no-cache", "Run every step"),
    many("no-cache-filter", "Run every step of these stages", "STAGE,…"),
    many("build-context", "A further context: folder, URL, docker-image://, oci-layout://, target:",
         "NAME=SOURCE"),
    many("secret", "A secret for RUN --mount=type=secret", "id=ID[,src=FILE|,env=NAME]"),
    many("ssh", "An SSH agent, or keys, for RUN --mount=type=ssh",
         "default|ID=SOCKET|ID=FILE,…"),
    many("cache-from", "Begin with a cache: type=registry,ref=…, type=local,src=DIR", "CACHE"),
    many("cache-to", "Keep the cache: type=inline, type=registry,ref=…, type=local,dest=DIR",
         "CACHE"),
    many("output", "The result: DIR, -, or type=tar|local|oci|docker|registry,dest=…",
         "OUTPUT", "o"),
    switch("load", "Keep the image in the store, besides other outputs"),
    switch("push", "Push the image to the registries of its names"),
    switch("rewrite-timestamp", "No file is younger than SOURCE_DATE_EPOCH"),
    many("allow", "Allow security.insecure or network.host", "RIGHT"),
    text("network", "Network of RUN: default, none or host", "NETWORK"),
    many("add-host", "A line for /etc/hosts of RUN", "HOST:IP"),
    text("shm-size", "Size of /dev/shm of RUN", "SIZE"),
    many("ulimit", "A limit of RUN: nofile=1024:2048", "NAME=SOFT[:HARD]"),
    text("memory", "Memory of RUN", "SIZE", "m"),
    text("memory-swap", "Memory and swap of RUN", "SIZE"),
    text("disk-limit", "What one RUN may write (default: all but a reserve of the disk)", "SIZE"),
    number("pids-limit", "Processes of one RUN (default 8192)", "N"),
    number("cpu-shares", "Weight of RUN's processor time", "N", "c"),
    number("cpu-period", "Period of the processor quota in microseconds"),
    number("cpu-quota", "Processor time in a period in microseconds"),
    text("cpuset-cpus", "Processors of RUN: 0-2,4", "LIST"),
    text("cpuset-mems", "Memory nodes of RUN", "LIST"),
    text("cgroup-parent", "Cgroup above those of RUN", "PATH"),
    many("security-opt", "A security option of RUN", "OPTION"),
    switch("squash", "One layer of all that were added"),
    text("progress", "auto, plain, json or quiet", "KIND"),
    switch("quiet", "Show the image's id and nothing else", "q"),
    text("iidfile", "Write the image's id to a file", "FILE", complete="files"),
    text("metadata-file", "Write what was built to a file, as JSON", "FILE", complete="files"),
    switch("check", "Only read the Dockerfile and warn"),
    switch("list-steps", "Show each step with its key; run none"),
    switch("shell-on-failure", "Open a shell in the state of a step that failed"),
    text("shell-at", "Open a shell after a step: its key, its number or its line", "STEP"),
    switch("rm", "Accepted for Docker's sake: nothing of a step ever stays"),
    switch("force-rm", "Accepted for Docker's sake"),
    switch("compress", "Accepted for Docker's sake"),
)  # fmt: skip
