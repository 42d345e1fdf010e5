"""Image references: `[registry/]repository[:tag][@digest]`.

Grammar and defaults follow Docker's distribution reference: no registry means Docker Hub, a
repository without a slash there is an official one (`library/…`), no tag and no digest is `latest`.
"""

import re

from skerry.base.digests import parse_digest
from skerry.base.errors import InvalidInput
from skerry.base.light import NamedTuple

DEFAULT_REGISTRY = "docker.io"
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HOST_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]+)?")


class Reference(NamedTuple):
    """A normalised reference. `tag` and `digest` are empty when not given."""

    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        """`registry/repository` in full."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: Docker Hub's registry and `library/` left out."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        return self.repository.removeprefix("library/")

    @property
    def familiar(self) -> str:
        """As shown to people, with the tag and the digest that were given."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.familiar_name}{tag}{digest}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def parse_reference(text: str, *, default_tag: str = "latest") -> Reference:
    """Parse what a user wrote; `default_tag` fills in when neither tag nor digest is given.

    Raises InvalidInput with Docker's words.
    """
    if not text or len(text) > 4096:
        raise InvalidInput(f"invalid reference format: {text!r:.80}")
    rest, at, digest = text.partition("@")
    if at:
        parse_digest(digest)
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
        registry, path = head, tail
    else:
        registry, path = DEFAULT_REGISTRY, rest
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    repository, colon, tag = path.partition(":")
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    if repository != repository.lower():
        raise InvalidInput(
            f"invalid reference format: repository name ({repository.removeprefix('library/')}) "
            "must be lowercase"
        )
    if (
        not _REGISTRY.fullmatch(registry)
        or not all(_COMPONENT.fullmatch(part) for part in repository.split("/"))
        or len(repository) > 255
        or (colon and not _TAG.fullmatch(tag))
    ):
        raise InvalidInput(f"invalid reference format: {text!r:.120}")
    if not tag and not digest:
        tag = default_tag
    return Reference(registry, repository, tag, digest)
