"""Git sources: a context or an ADD out of a repository, by the host's git.

The URL is somebody else's: git gets no configuration of the host, no prompt, no hooks, and only
protocols that lead to a server. Forms: `URL#ref:directory` and `URL?ref=…&subdir=…`; docs/build.md
lists the queries.
"""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from skerry.base.errors import DigestMismatch, InvalidInput, NotFound, Unavailable, Unsupported
from skerry.base.truths import FALSE, TRUE
from skerry.store.trees import DIRECTORY, walk

PROTOCOLS: Final = "https:http:git:ssh"
_SECONDS: Final = 600
_SSH: Final = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\s]+")
_URL: Final = re.compile(r"(?:git|ssh)://\S+|https?://\S+?\.git(?:[?#]\S*)?")
_QUERIES: Final = frozenset(
    {"branch", "checksum", "commit", "ref", "subdir", "tag"}
    | {"fetch-by-commit", "keep-git-dir", "mtime", "submodules"}
)
"""The documentation of Docker's build context, "URL queries"."""
_SWITCHES: Final = frozenset({"fetch-by-commit", "keep-git-dir", "submodules"})
_WHOLE: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BEGINNING: Final = re.compile(r"[0-9a-f]{7,64}")
_UNREACHED: Final = re.compile(
    r"Permission denied|Host key verification|Could not resolve|Failed to connect|timed out"
    r"|Connection refused|certificate|Authentication failed|prompts disabled"
)
"""Failures that another request would only repeat."""
_NOTHING: Final[Mapping[str, str]] = {}
_REF: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@=-]{0,250}")


class Repository(NamedTuple):
    """Where to fetch from."""

    url: str
    ref: str = ""
    """Branch, tag or commit; empty for the server's HEAD."""
    directory: str = ""
    checksum: str = ""
    """The commit that it has to be, or its beginning."""
    submodules: bool = True
    keep_git_dir: bool | None = None
    """None says nothing about it."""
    commit_times: bool = False
    """Give the files the commit's time instead of that of their checkout."""


def is_remote(source: str) -> bool:
    """Whether ADD fetches it."""
    return source.startswith(("http://", "https://")) or is_repository(source)


def is_repository(text: str) -> bool:
    """Whether Docker would take it for a repository."""
    if text.startswith("github.com/"):
        return True
    return bool(_SSH.fullmatch(text.partition("#")[0]) or _URL.fullmatch(text))


def parse(text: str) -> Repository:
    """InvalidInput for what git could misunderstand, and for queries that contradict each other."""
    url, _, fragment = text.partition("#")
    ref, _, directory = fragment.partition(":")
    url, _, query = url.partition("?")
    fields = _fields(text, query)
    for kind, place in (("ref", ""), ("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if kind in fields:
            name = place + fields[kind].removeprefix(place)
            ref = _same(text, "ref", ref, name)
    directory = _same(text, "subdir", directory, fields.get("subdir", ""))
    checksum = _same(text, "commit", fields.get("checksum", ""), fields.get("commit", ""))
    ref = ref or checksum
    if _switch(text, fields, "fetch-by-commit"):
        ref = checksum or ref
        if not _WHOLE.fullmatch(ref.lower()):
            raise InvalidInput(f"{text:.200}: fetch-by-commit needs a whole commit as checksum")
    mtime = fields.get("mtime", "checkout")
    if mtime not in ("checkout", "commit"):
        raise InvalidInput(f"{text:.200}: invalid mtime value: {mtime!r:.80}")
    if url.startswith("github.com/"):
        url = f"https://{url}"
    if ref and not _REF.fullmatch(ref):
        raise InvalidInput(f"{text:.200}: not a git reference: {ref!r:.80}")
    if url.startswith("-") or "\0" in text:
        raise InvalidInput(f"not a repository: {text!r:.200}")
    if checksum and not _BEGINNING.fullmatch(checksum.lower()):
        raise InvalidInput(f"{text:.200}: not a commit: {checksum!r:.80}")
    return Repository(
        url,
        ref,
        directory,
        checksum,
        _switch(text, fields, "submodules") is not False,
        _switch(text, fields, "keep-git-dir"),
        mtime == "commit",
    )


def _fields(text: str, query: str) -> dict[str, str]:
    """The queries, each known and given once."""
    found: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _QUERIES:
            raise InvalidInput(
                f"{text:.200}: unexpected query {key!r:.80}",
                hint=f"known are {', '.join(sorted(_QUERIES))}",
            )
        if key in found:
            raise InvalidInput(f"{text:.200}: query {key!r} has multiple values")
        if not value and key not in _SWITCHES:
            raise InvalidInput(f"{text:.200}: query {key!r} has no value")
        found[key] = value
    return found


def _same(text: str, what: str, one: str, other: str) -> str:
    if one and other and one != other:
        raise InvalidInput(f"{text:.200}: {what} conflicts: {one!r:.80} and {other!r:.80}")
    return one or other


def _switch(text: str, fields: Mapping[str, str], key: str) -> bool | None:
    value = fields.get(key)
    if value is None:
        return None
    if value and value not in TRUE | FALSE:
        raise InvalidInput(f"{text:.200}: invalid {key} value: {value!r:.80}")
    return not value or value in TRUE  # A switch without a value is on.


async def fetch(
    repository: Repository,
    folder: str,
    *,
    checksum: str = "",
    environment: Mapping[str, str] = _NOTHING,
) -> str:
    """Check the repository out into `folder`, which is made; the commit.

    `checksum` is the commit that it has to be, or its beginning; `environment` is added to git's.
    NotFound, Unavailable, DigestMismatch.
    """
    if shutil.which("git") is None:
        raise Unsupported(
            f"cannot fetch {repository.url}: git is not installed on the engine's host"
        )
    os.mkdir(folder, 0o700)

    async def git(*arguments: str) -> str:
        return await _git(folder, *arguments, environment=environment)

    await git("init", "-q")
    await git("remote", "add", "origin", repository.url)
    ref = repository.ref or "HEAD"
    try:
        await git("fetch", "-q", "--depth=1", "--no-tags", "origin", ref)
    except NotFound as failure:
        if _UNREACHED.search(failure.message):
            raise
        # A server need not hand out commits by their names, nor be able to cut the history.
        await git("fetch", "-q", "origin", "+refs/heads/*:refs/remotes/origin/*", "--tags")
        commit, object_ = await _find(git, ref)
    else:
        commit, object_ = await _both(git, "FETCH_HEAD")
    for wanted in (checksum, repository.checksum):
        # An annotated tag is an object of its own, by which it may be named as well.
        if not any(each.startswith(wanted.lower()) for each in (commit, object_)):
            raise DigestMismatch(f"{repository.url}: {ref} is commit {commit}, not {wanted:.80}")
    await git("checkout", "-q", "--detach", commit)
    if repository.submodules:
        await git("submodule", "update", "-q", "--init", "--recursive", "--depth=1")
    if repository.commit_times:
        when = int(await git("show", "-s", "--format=%ct", commit))
        await asyncio.to_thread(_date, folder, when)
    return commit


async def _find(git: Callable[..., Awaitable[str]], ref: str) -> tuple[str, str]:
    wanted = [ref, f"refs/remotes/origin/{ref.removeprefix('refs/heads/')}"]
    if ref == "HEAD":
        head = await git("ls-remote", "origin", "HEAD")
        wanted = [head.split()[0]] if head else []
    for name in wanted:
        with contextlib.suppress(NotFound):
            return await _both(git, name)
    raise NotFound(f"no such git reference: {ref}")


async def _both(git: Callable[..., Awaitable[str]], name: str) -> tuple[str, str]:
    """The commit that a name leads to, and the object that it is."""
    commit = await git("rev-parse", "--verify", "-q", f"{name}^{{commit}}")
    return commit, await git("rev-parse", "--verify", "-q", name)


def _date(folder: str, when: int) -> None:
    """Give everything that was checked out one time, in seconds. Blocks."""
    top = os.open(folder, DIRECTORY)
    try:
        for visit in walk(top):
            os.utime(visit.name, (when, when), dir_fd=visit.directory, follow_symlinks=False)
    finally:
        os.close(top)


async def _git(folder: str, *arguments: str, environment: Mapping[str, str]) -> str:
    variables = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_ALLOW_PROTOCOL": PROTOCOLS,
        "LC_ALL": "C",
        **environment,
    }
    process = await asyncio.create_subprocess_exec(
        "git",
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "protocol.file.allow=never",
        "-C",
        folder,
        *arguments,
        env=variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, complaint = await asyncio.wait_for(process.communicate(), _SECONDS)
    except TimeoutError:
        raise Unavailable(f"git {arguments[0]} took more than {_SECONDS} seconds") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    if process.returncode:
        raise _failure(arguments[0], complaint.decode("utf-8", "replace"))
    return out.decode("utf-8", "replace").strip()


def _failure(command: str, complaint: str) -> NotFound:
    """What git and the programs below it said, without its advice."""
    said = complaint.partition("Please make sure you have the correct access rights")[0]
    lines = [line.strip() for line in said.splitlines() if line.strip(" @")]
    text = "; ".join(lines[-4:])[-400:] or "failed"
    hint = ""
    if "Permission denied (" in text:
        hint = "forward an agent that has the key: --ssh default"
    elif "Host key verification failed" in text:
        hint = "the server's key is another than known_hosts has"
    elif "terminal prompts disabled" in text or "Authentication failed" in text:
        hint = "give a token: --secret id=GIT_AUTH_TOKEN"
    return NotFound(f"git {command}: {text}", hint=hint)
