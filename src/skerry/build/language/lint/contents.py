"""Rules about what an image ends up with: secrets, leavings of package tools, missing files."""

import json
import re
from typing import Final

from skerry.build.language.instructions import Arg, Copy, Dockerfile, Env, Label, Run, Workdir
from skerry.build.language.lint.findings import Finding, Findings, Surroundings

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.I
)
_PUBLIC = re.compile(r"(?:_|^)public(?:_|$)|_(?:FILE|PATH)$", re.I)
_TELLTALE: Final = (
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z]{1,20} ){0,3}PRIVATE KEY-----")),
    ("an AWS access key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_\w{30})")),
    ("a GitLab token", re.compile(r"\bglpat-[\w-]{20}")),
    ("an npm token", re.compile(r"\bnpm_[0-9A-Za-z]{36}\b")),
    ("a Slack token", re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{10}")),
    ("a password in a URL", re.compile(r"\bhttps?://[^\s/:@$'\"]{1,64}:[^\s/:@$'\"{}]{1,64}@")),
)
_LONGEST: Final = 1 << 20
_APT_UPDATE = re.compile(r"\bapt(?:-get)?\s+(?:-\S+\s+){0,9}update\b")
_APT_INSTALL = re.compile(
    r"\bapt(?:-get)?\s+(?:-\S+\s+){0,9}(?:install|upgrade|dist-upgrade|full-upgrade|build-dep)\b"
)
_APT_LISTS: Final = "/var/lib/apt"
_PIP = re.compile(r"\bpip[0-9.]{0,4}\s+(?:-\S+\s+){0,9}install\b")
_LATEST: Final = "latest"


def secrets(file: Dockerfile, around: Surroundings) -> Findings:
    """By the names of variables, and by what is written anywhere."""
    for argument in file.arguments:
        yield from _secret_names(argument)
    for stage in file.stages:
        for each in stage.instructions:
            if isinstance(each, Arg | Env):
                yield from _secret_names(each)
            if isinstance(each, Arg | Env | Label | Run | Copy):
                texts = [each.source.text[:_LONGEST]]
                if isinstance(each, Run | Copy):
                    texts += [one.content[:_LONGEST] for one in each.documents]
                for what, pattern in _TELLTALE:
                    if any(pattern.search(text) for text in texts):
                        text = f"This looks like {what}; use a secret mount"
                        yield Finding("SecretInText", text, each.source.span)


def _secret_names(each: Arg | Env) -> Findings:
    word = "ARG" if isinstance(each, Arg) else "ENV"
    for name, _ in each.pairs:
        if _SECRET.search(name) and not _PUBLIC.search(name):
            text = f"Do not use ARG or ENV instructions for sensitive data ({word} "
            yield Finding("SecretsUsedInArgOrEnv", f"{text}{json.dumps(name)})", each.source.span)


def directories(file: Dockerfile, around: Surroundings) -> Findings:
    """WORKDIR without a place to begin from."""
    absolute: set[str] = set()
    for stage in file.stages:
        known = stage.base.base.lower() in absolute or stage.base.base == "scratch"
        for each in stage.instructions:
            if not isinstance(each, Workdir):
                continue
            if each.path.startswith(("/", "$", '"/', "'/", '"$')):
                known = True
            elif not known:
                text = f"Relative workdir {json.dumps(each.path)} can have unexpected results if"
                yield Finding(
                    "WorkdirRelativePath", f"{text} the base image changes", each.source.span
                )
        if known and stage.base.name:
            absolute.add(stage.base.name)


def ignored(file: Dockerfile, around: Surroundings) -> Findings:
    """COPY of what .dockerignore leaves out."""
    if around.ignored is None:
        return
    for stage in file.stages:
        for each in stage.instructions:
            if not isinstance(each, Copy) or each.from_:
                continue
            for source in each.sources:
                path = source.strip("/").removeprefix("./").rstrip("/")
                plain = path not in ("", ".") and not any(char in path for char in "*?[$\\'\"")
                if plain and "://" not in path and around.ignored(path):
                    word = "Add" if each.add else "Copy"
                    text = f"Attempting to {word} file {json.dumps(source)} that is excluded by"
                    yield Finding("CopyIgnoredFile", f"{text} .dockerignore", each.source.span)


def latest(file: Dockerfile, around: Surroundings) -> Findings:
    """Bases that move."""
    stages: set[str] = set()
    contexts = {name.lower() for name in around.contexts}
    for stage in file.stages:
        base = stage.base.base
        name, _, tag = base.rpartition(":")
        untagged = not name or "/" in tag
        local = base == "scratch" or base.lower() in stages or base.lower() in contexts
        if not local and "$" not in base and "@" not in base and (untagged or tag == _LATEST):
            how = "has no tag" if untagged else "has the tag latest"
            text = f"Base {base} {how}: it is another image tomorrow"
            yield Finding("BaseImageLatest", text, stage.base.source.span)
        if stage.base.name:
            stages.add(stage.base.name)


def leavings(file: Dockerfile, around: Surroundings) -> Findings:
    """What package tools leave in a layer."""
    for stage in file.stages:
        cache_off = any(
            isinstance(each, Env) and any(name == "PIP_NO_CACHE_DIR" for name, _ in each.pairs)
            for each in stage.instructions
        )
        for each in stage.instructions:
            if isinstance(each, Run):
                yield from _left_by(each, pip_cache=not cache_off)


def _left_by(each: Run, *, pip_cache: bool) -> Findings:
    span = each.source.span
    script = " ".join([*each.command.args, *(one.content for one in each.documents)])[:_LONGEST]
    mounted = " ".join(mount for mount in each.mounts if "cache" in mount or "tmpfs" in mount)
    updates = _APT_UPDATE.search(script) is not None
    installs = _APT_INSTALL.search(script) is not None
    kept = _APT_LISTS not in mounted and f"{_APT_LISTS}/lists" not in script
    if updates and not installs and kept:
        text = "apt-get update in a RUN of its own: a later install uses old package lists"
        yield Finding("AptUpdateAlone", text, span)
    elif installs and kept:
        text = "apt-get leaves its package lists here; end with rm -rf /var/lib/apt/lists/*"
        yield Finding("AptWithoutCleanup", text, span)
    if (
        pip_cache
        and _PIP.search(script)
        and "--no-cache-dir" not in script
        and "PIP_NO_CACHE_DIR" not in script
        and not mounted
    ):
        text = "pip keeps its downloads here; say --no-cache-dir or use a cache mount"
        yield Finding("PipCacheKept", text, span)
