"""Images in the shapes of Docker's API."""

from typing import Any

from skerry.api import versions
from skerry.api.formats import ZERO_TIME, rfc3339
from skerry.api.versions import Version
from skerry.engine.logs import parse_time
from skerry.store.images import HistoryLine, Image, Removed
from skerry.store.referrers import Referrer

Json = dict[str, Any]

CONFIG_DEFAULTS: Json = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": [],
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}
OF_IMAGES = frozenset(
    """ArgsEscaped Cmd Entrypoint Env ExposedPorts Healthcheck Labels OnBuild Shell StopSignal User
    Volumes WorkingDir""".split()
)
"""What an image says of containers; the rest of a configuration is containers' own."""


def created_seconds(image: Image) -> int:
    """Seconds since the epoch; 0 when the image does not say."""
    return parse_time(image.created) // 10**9


def summary(image: Image, version: Version, *, containers: int = -1) -> Json:
    """A line of `GET /images/json`."""
    result: Json = {
        "Id": image.id,
        "ParentId": image.parent,
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Created": created_seconds(image),
        "Size": image.size,
        "SharedSize": -1,
        "Labels": image.config.get("Labels"),
        "Containers": containers,
    }
    if versions.images_have_virtual_size(version):
        result["VirtualSize"] = image.size
    if versions.images_have_empty_names(version):
        # Older clients cannot show an image without any name.
        result["RepoTags"] = list(image.tags) or ["<none>:<none>"]
        result["RepoDigests"] = list(image.digests) or ["<none>@<none>"]
    return result


def referrer(each: Referrer) -> Json:
    """One artifact about an image."""
    return {"Digest": each.digest, "ArtifactType": each.artifact_type}


def inspect(image: Image, version: Version, referrers: list[Referrer]) -> Json:
    """`GET /images/{name}/json`; `Referrers`, our own, is there when there are some."""
    config = {**CONFIG_DEFAULTS, **image.config}
    if versions.has_short_config(version):
        config = {key: config[key] for key in config if key in OF_IMAGES}
    result: Json = {
        "Id": image.id,
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Parent": image.parent,
        "Comment": image.comment,
        "Created": image.created or ZERO_TIME,
        "DockerVersion": "",
        "Author": image.author,
        "Config": config,
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "GraphDriver": {"Data": None, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
        "Metadata": {"LastTagTime": rfc3339(int(image.tagged_at * 10**9))},
        "Descriptor": {
            "mediaType": image.media_type,
            "digest": image.manifest,
            "size": image.manifest_size,
        },
    }
    if versions.images_have_containers(version):
        result |= {"Container": "", "ContainerConfig": dict(CONFIG_DEFAULTS)}
    if image.variant:
        result["Variant"] = image.variant
    if referrers:
        result["Referrers"] = [referrer(each) for each in referrers]
    if versions.images_have_virtual_size(version):
        result["VirtualSize"] = image.size
    return result


def history(line: HistoryLine) -> Json:
    """A line of `GET /images/{name}/history`."""
    return {
        "Id": line.id,
        "Created": parse_time(line.created) // 10**9,
        "CreatedBy": line.created_by,
        "Tags": list(line.tags) or None,
        "Size": line.size,
        "Comment": line.comment,
    }


def removed(line: Removed) -> Json:
    """A line of `DELETE /images/{name}`."""
    return {"Untagged": line.untagged} if line.untagged else {"Deleted": line.deleted}
