"""The body of POST /skerry/builds as a build's options (docs/build.md). Types are checked here."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.references import parse_reference
from skerry.build.request import CacheSource, Options, Output, Secret
from skerry.registry.auth import Credential, decode_auth_config

MAX_SECRET: Final = 500 << 10
"""Bytes, as with BuildKit."""
_ALLOWED: Final = ("security.insecure", "network.host")
_HOST: Final = (
    "CgroupParent", "CpuPeriod", "CpuQuota", "CpuShares", "CpusetCpus", "CpusetMems", "Dns",
    "DnsOptions", "DnsSearch", "ExtraHosts", "Memory", "MemorySwap", "PidsLimit", "SecurityOpt",
    "ShmSize", "Ulimits",
)  # fmt: skip


class OutputBody(msgspec.Struct, rename="pascal", forbid_unknown_fields=True):
    """One of `Outputs`."""

    type: str = "image"
    name: str = ""
    rewrite_timestamp: bool = False
    compression: str = "gzip"


class CacheBody(msgspec.Struct, rename="pascal", forbid_unknown_fields=True):
    """One of `CacheFrom` or `CacheTo`."""

    type: str
    ref: str = ""
    name: str = ""
    mode: str = "min"


class Body(msgspec.Struct, rename="pascal"):
    """The whole body; what belongs to HostConfig is read apart."""

    dockerfile: str = "Dockerfile"
    dockerfile_content: str | None = None
    target: str = ""
    tags: list[str] = []
    build_args: dict[str, str | None] = {}
    labels: dict[str, str] = {}
    platform: str = ""
    pull: bool = False
    no_cache: bool = False
    no_cache_filter: list[str] = []
    contexts: dict[str, str] = {}
    remote: str = ""
    network: str = "default"
    disk_limit: int = 0
    secrets: dict[str, str] = {}
    ssh: list[str] = msgspec.field(default=[], name="SSH")
    known_hosts: str = ""
    allow: list[str] = []
    outputs: list[OutputBody] = []
    cache_from: list[CacheBody] = []
    cache_to: list[CacheBody] = []
    source_date_epoch: int | None = None
    squash: bool = False
    list_steps: bool = False
    keep_failed: bool = False
    check: bool = False
    auth: dict[str, dict[str, Any]] = {}


def parse(data: Mapping[str, Any]) -> tuple[Body, Options]:
    """The body, and the options that it stands for. InvalidInput, LimitExceeded."""
    try:
        body = msgspec.convert(data, Body)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"invalid build options: {error}") from None
    for name in body.allow:
        if name not in _ALLOWED:
            known = ", ".join(_ALLOWED)
            raise InvalidInput(f"cannot allow {name!r:.60}", hint=f"known are {known}")
    if body.source_date_epoch is not None and not 0 <= body.source_date_epoch < 1 << 34:
        raise InvalidInput("SourceDateEpoch is out of range")
    if body.disk_limit < 0:
        raise InvalidInput("DiskLimit is negative")
    content = body.dockerfile_content
    return body, Options(
        dockerfile=body.dockerfile or "Dockerfile",
        dockerfile_content=None if content is None else content.encode("utf-8", "surrogateescape"),
        target=body.target,
        tags=tuple(dict.fromkeys(map(tag, body.tags))),
        build_args=body.build_args,
        labels=body.labels,
        platform=body.platform,
        pull=body.pull,
        no_cache=body.no_cache,
        no_cache_filter=frozenset(body.no_cache_filter),
        network=body.network or "default",
        host={key: data[key] for key in _HOST if data.get(key)},
        disk_limit=body.disk_limit,
        secrets={key: _secret(key, each) for key, each in body.secrets.items()},
        ssh=frozenset(body.ssh),
        known_hosts=body.known_hosts.encode("utf-8", "replace"),
        allow_insecure="security.insecure" in body.allow,
        allow_host_network="network.host" in body.allow,
        outputs=tuple(
            Output(each.type, each.name, each.rewrite_timestamp, each.compression)
            for each in body.outputs
        )
        or (Output("image"),),
        cache_from=tuple(map(_cache, body.cache_from)),
        cache_to=tuple(map(_cache, body.cache_to)),
        epoch=body.source_date_epoch,
        squash=body.squash,
        only_check=body.check,
        only_list=body.list_steps,
        keep_failed=body.keep_failed,
        credentials=credentials(body.auth),
    )


def tag(text: str) -> str:
    """A name for the result. InvalidInput for a digest."""
    reference = parse_reference(text)
    if reference.digest:
        raise InvalidInput("build tag cannot contain a digest")
    return reference.familiar


def _secret(name: str, text: str) -> Secret:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"secret {name:.80}: not base64") from None
    if len(data) > MAX_SECRET:
        raise LimitExceeded(f"secret {name:.80}: {len(data)} bytes, at most {MAX_SECRET}")
    return Secret(data)


def _cache(body: CacheBody) -> CacheSource:
    if body.type not in ("registry", "local", "inline"):
        raise InvalidInput(
            f"unknown cache type {body.type!r:.40}", hint="known are registry, local and inline"
        )
    if body.mode not in ("min", "max"):
        raise InvalidInput(f"unknown cache mode {body.mode!r:.40}", hint="min or max")
    if body.type == "registry" and not body.ref:
        raise InvalidInput("a cache in a registry needs Ref")
    return CacheSource(body.type, body.ref or body.name, body.mode)


def credentials(auths: Mapping[str, Any]) -> dict[str, Credential]:
    """Registry to AuthConfig, as Docker's configuration file names registries."""
    found: dict[str, Credential] = {}
    for key, each in auths.items():
        if isinstance(each, dict):
            host = (key.partition("://")[2] or key).partition("/")[0]
            found["docker.io" if host == "index.docker.io" else host] = decode_auth_config(each)
    return found
