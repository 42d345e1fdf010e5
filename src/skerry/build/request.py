"""What is asked for: the options of one build. Plain data, made by the API's two faces."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from skerry.registry.auth import Credential


class Secret(NamedTuple):
    """A secret that steps may mount."""

    data: bytes


class Output(NamedTuple):
    """Where the result goes besides the store: `kind` is image, docker, oci, tar, local or
    registry."""

    kind: str
    name: str = ""
    """For image, docker and oci: the name inside; for registry: where to push."""
    rewrite_timestamp: bool = False
    compression: str = "gzip"


class CacheSource(NamedTuple):
    """`--cache-from` or `--cache-to`: `kind` is registry, local or inline.

    Or image: one that is here, which is all that Docker's own request for a build means.
    """

    kind: str
    reference: str = ""
    """registry: the reference; local: the name under which the client sent or gets the folder."""
    mode: str = "min"
    """max also exports the stages that the target only copies from."""


class Options(NamedTuple):
    """One build's options, after reading."""

    dockerfile: str = "Dockerfile"
    dockerfile_content: bytes | None = None
    """The Dockerfile itself, when it is not in the context."""
    target: str = ""
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str | None] = {}
    """None takes the value of a build argument away."""
    labels: Mapping[str, str] = {}
    platform: str = ""
    pull: bool = False
    no_cache: bool = False
    no_cache_filter: frozenset[str] = frozenset()
    network: str = "default"
    host: Mapping[str, Any] = {}
    """HostConfig fields for every RUN: limits, ShmSize, ExtraHosts, Ulimits."""
    disk_limit: int = 0
    """Bytes that one RUN may write; 0 is no limit but the disk's reserve."""
    secrets: Mapping[str, Secret] = {}
    ssh: frozenset[str] = frozenset()
    """The ids of agents that the client forwards."""
    known_hosts: bytes = b""
    """The keys of hosts that git reaches by ssh, as in known_hosts (sshd(8)). Another key than the
    one here is refused; a host that is not here is taken at its word."""
    allow_insecure: bool = False
    allow_host_network: bool = True
    outputs: tuple[Output, ...] = (Output("image"),)
    cache_from: tuple[CacheSource, ...] = ()
    cache_to: tuple[CacheSource, ...] = ()
    epoch: int | None = None
    squash: bool = False
    only_check: bool = False
    """Warn, and build nothing (--check)."""
    only_list: bool = False
    """Look every step up and run none (--list-steps)."""
    keep_failed: bool = False
    """Keep the state of a step that failed (--shell-on-failure)."""
    credentials: Mapping[str, Credential] = {}
    """By registry."""

    def credential(self, registry: str) -> Credential | None:
        """Who to be at a registry."""
        return self.credentials.get(registry)
