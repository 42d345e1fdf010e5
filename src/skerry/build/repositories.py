"""Git sources: a context or an ADD out of a repository, by the host's git.

The URL is somebody else's: git gets no configuration of the host, no prompt, no hooks, and only
protocols that lead to a server. Forms: `URL#ref:directory`, and behind it
`?ref=…&subdir=…&checksum=…`.
"""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qs

from skerry.base.errors import DigestMismatch, InvalidInput, NotFound, Unavailable, Unsupported

PROTOCOLS: Final = "https:http:git:ssh"
_SECONDS: Final = 600
_SSH: Final = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\s]+")
_URL: Final = re.compile(r"(?:git|ssh)://\S+|https?://\S+?\.git(?:[?#]\S*)?")
_QUERIES: Final = frozenset({"branch", "checksum", "commit", "ref", "subdir", "tag"})
"""The documentation of Docker's build context, "URL queries"."""
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


def is_remote(source: str) -> bool:
    """Whether ADD fetches it."""
    return source.startswith(("http://", "https://")) or is_repository(source)


def is_repository(text: str) -> bool:
    """Whether Docker would take it for a repository."""
    if text.startswith("github.com/"):
        return True
    return bool(_SSH.fullmatch(text.partition("#")[0]) or _URL.fullmatch(text))


def parse(text: str) -> Repository:
    """InvalidInput for what git could misunderstand."""
    url, _, fragment = text.partition("#")
    ref, _, directory = fragment.partition(":")
    url, _, query = url.partition("?")
    checksum = ""
    if query:
        fields = {key: values[-1] for key, values in parse_qs(query).items()}
        if unknown := set(fields) - _QUERIES:
            raise InvalidInput(
                f"{text:.200}: unexpected query {min(unknown)!r:.80}",
                hint=f"known are {', '.join(sorted(_QUERIES))}",
            )
        checksum = fields.get("checksum") or fields.get("commit") or ""
        ref = ref or fields.get("ref") or fields.get("branch") or fields.get("tag") or checksum
        directory = directory or fields.get("subdir", "")
    if url.startswith("github.com/"):
        url = f"https://{url}"
    if ref and not _REF.fullmatch(ref):
        raise InvalidInput(f"{text:.200}: not a git reference: {ref!r:.80}")
    if url.startswith("-") or "\0" in text:
        raise InvalidInput(f"not a repository: {text!r:.200}")
    if checksum and not _BEGINNING.fullmatch(checksum.lower()):
        raise InvalidInput(f"{text:.200}: not a commit: {checksum!r:.80}")
    return Repository(url, ref, directory, checksum)


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
        commit = await _find(git, ref)
    else:
        commit = await git("rev-parse", "FETCH_HEAD^{commit}")
    for wanted in (checksum, repository.checksum):
        if not commit.startswith(wanted.lower()):
            raise DigestMismatch(f"{repository.url}: {ref} is commit {commit}, not {wanted:.80}")
    await git("checkout", "-q", "--detach", commit)
    await git("submodule", "update", "-q", "--init", "--recursive", "--depth=1")
    return commit


async def _find(git: Callable[..., Awaitable[str]], ref: str) -> str:
    wanted = [ref, f"refs/remotes/origin/{ref}"]
    if ref == "HEAD":
        head = await git("ls-remote", "origin", "HEAD")
        wanted = [head.split()[0]] if head else []
    for name in wanted:
        with contextlib.suppress(NotFound):
            return await git("rev-parse", "--verify", "-q", f"{name}^{{commit}}")
    raise NotFound(f"no such git reference: {ref}")


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
