"""ACI, the image format of rkt: `manifest` and `rootfs/` in one archive.

Source: the App Container specification 0.8.11, "ACI manifest schema". What rkt did at run time with
`app` becomes the OCI configuration; what has no counterpart is refused, not dropped in silence:
dependencies on other images and path whitelists change what is in the tree.
"""

import re
from typing import Any, Final

import msgspec

from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError, Unsupported
from skerry.base.oci_image import History, ImageConfig, RootFS
from skerry.base.references import parse_reference

NAME: Final = "manifest"
MAX_MANIFEST: Final = 1 << 20
MAX_LIST: Final = 4096
MAX_PORTS: Final = 1024
"""Ports that `count` may add up to."""
_ARCHITECTURES: Final = {
    "amd64": ("amd64", ""),
    "i386": ("386", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv7b": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
}
_ANNOTATIONS: Final = {
    "homepage": "org.opencontainers.image.url",
    "documentation": "org.opencontainers.image.documentation",
    "authors": "org.opencontainers.image.authors",
}
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_BRACKETS: Final = re.compile(rb"[\[{]")


class Pair(msgspec.Struct, frozen=True):
    """A label, an annotation or an environment variable."""

    name: str
    value: str


class Port(msgspec.Struct, frozen=True):
    """A port, or `count` of them."""

    name: str
    protocol: str
    port: int
    count: int = 1


class MountPoint(msgspec.Struct, frozen=True):
    """Where rkt mounted a volume."""

    path: str
    name: str = ""


class App(msgspec.Struct, frozen=True, rename="camel"):
    """What runs."""

    exec: list[str] = []
    user: str = "0"
    group: str = "0"
    working_directory: str = "/"
    environment: list[Pair] = []
    mount_points: list[MountPoint] = []
    ports: list[Port] = []


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """The image manifest."""

    ac_kind: str
    ac_version: str
    name: str
    labels: list[Pair] = []
    app: App | None = None
    dependencies: list[Any] | None = None
    path_whitelist: list[str] | None = None
    annotations: list[Pair] = []


def parse(data: bytes, what: str) -> Manifest:
    """An image manifest; InvalidInput, LimitExceeded, Unsupported."""
    if len(data) > MAX_MANIFEST or len(_BRACKETS.findall(data)) > 4 * MAX_LIST:
        raise LimitExceeded(f"{what}: it is too large")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{what}: {error}") from None
    if manifest.ac_kind != "ImageManifest":
        raise InvalidInput(f"{what}: acKind {manifest.ac_kind!r:.60} is not 'ImageManifest'")
    if manifest.dependencies:
        named = [each.get("imageName") for each in manifest.dependencies if isinstance(each, dict)]
        listed = ", ".join(str(name)[:100] for name in named[:5])
        raise Unsupported(
            f"{what}: it depends on other images ({listed}), which this archive does not hold",
            hint="render it first: rkt fetched the images it depends on and stacked them",
        )
    if manifest.path_whitelist:
        raise Unsupported(
            f"{what}: a pathWhitelist, which hides files of the tree, is not supported"
        )
    return manifest


def config_of(manifest: Manifest, diff_id: str, what: str) -> tuple[ImageConfig, tuple[str, ...]]:
    """The configuration and the image's names; InvalidInput, Unsupported."""
    labels = {each.name: each.value for each in manifest.labels}
    system = labels.get("os", "linux")
    machine = labels.get("arch", "amd64")
    if system != "linux" or machine not in _ARCHITECTURES:
        raise Unsupported(f"{what}: made for {system[:40]}/{machine[:40]}, not for Linux here")
    architecture, variant = _ARCHITECTURES[machine]
    notes = {each.name: each.value for each in manifest.annotations}
    created = notes.get("created", "")
    created = created if _DATE.fullmatch(created) else ""
    kept = {f"appc.io/{key}": value for key, value in sorted(labels.items())}
    kept |= {_ANNOTATIONS[key]: value for key, value in notes.items() if key in _ANNOTATIONS}
    kept["org.opencontainers.image.title"] = manifest.name
    if "version" in labels:
        kept["org.opencontainers.image.version"] = labels["version"]
    config: dict[str, Any] = {"Labels": kept}
    if manifest.app:
        config |= _app(manifest.app, what)
    document = ImageConfig(
        architecture,
        "linux",
        RootFS("layers", [diff_id]),
        created=created,
        author=notes.get("authors", ""),
        variant=variant,
        config=config,
        history=[History(created, f"import of the ACI {manifest.name}")],
    )
    return document, _names(manifest.name, labels.get("version", ""))


def _app(app: App, what: str) -> dict[str, Any]:
    if app.exec and not app.exec[0].startswith("/"):
        raise InvalidInput(f"{what}: exec {app.exec[0]!r:.100} is not an absolute path")
    if app.user.startswith("/") or app.group.startswith("/"):
        raise Unsupported(f"{what}: the user is that of a file ({app.user[:100]}), name it instead")
    config: dict[str, Any] = {"WorkingDir": app.working_directory or "/"}
    config["User"] = f"{app.user}:{app.group}" if app.group else app.user
    if app.exec:
        config["Entrypoint"] = app.exec
    if app.environment:
        for each in app.environment:
            if not each.name or "=" in each.name or "\0" in each.name + each.value:
                raise InvalidInput(f"{what}: environment variable {each.name!r:.100}")
        config["Env"] = [f"{each.name}={each.value}" for each in app.environment]
    if app.mount_points:
        config["Volumes"] = {each.path: {} for each in app.mount_points}
    if ports := _ports(app.ports, what):
        config["ExposedPorts"] = {port: {} for port in ports}
    return config


def _ports(ports: list[Port], what: str) -> list[str]:
    found: list[str] = []
    for each in ports:
        if (
            each.protocol not in ("tcp", "udp")
            or not 0 < each.port < 1 << 16
            or not 0 < each.count <= (1 << 16) - each.port
        ):
            raise InvalidInput(f"{what}: port {each.name!r:.60}: {each.port}/{each.protocol:.20}")
        if len(found) + each.count > MAX_PORTS:
            raise LimitExceeded(f"{what}: more than {MAX_PORTS} ports")
        found += [f"{each.port + n}/{each.protocol}" for n in range(each.count)]
    return found


def _names(name: str, version: str) -> tuple[str, ...]:
    """`example.com/app:1.0` when that is a reference, else none."""
    try:
        reference = parse_reference(f"{name}:{version}" if version else name)
    except SkerryError:
        return ()
    return (str(reference),)
