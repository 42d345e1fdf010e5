"""Root file systems, bundles and image archives made from Debian's busybox-static.

Nothing here needs a registry or an engine: the same bytes go to every engine that is compared.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BUSYBOX = "/bin/busybox"

_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": "root:x:0:\nusers:x:100:\nnogroup:x:65534:\n",
}

_MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    {
        "destination": "/sys",
        "type": "sysfs",
        "source": "sysfs",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    },
]
_MASKED = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
]
_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def make_rootfs(target: Path) -> Path:
    """Fill `target` (made when missing) with busybox, a link per applet and the usual folders."""
    for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    (target / "tmp").chmod(0o1777)
    shutil.copy2(BUSYBOX, target / "bin/busybox")
    listed = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    for applet in listed.stdout.split():
        if applet != "busybox":
            os.symlink("busybox", target / "bin" / applet)
    for name, text in _ETC.items():
        (target / "etc" / name).write_text(text)
    return target


def clone_rootfs(source: Path, target: Path) -> Path:
    """A second tree with its own directories and a copy of each file; symlinks stay symlinks."""
    return Path(shutil.copytree(source, target, symlinks=True))


def oci_spec(args: Sequence[str], rootfs: str = "rootfs") -> dict[str, Any]:
    """A `config.json` as `runc spec` would write it: all private namespaces, masks, no terminal."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": rootfs, "readonly": False},
        "hostname": "bundle",
        "mounts": [dict(mount) for mount in _MOUNTS],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def make_bundle(
    folder: Path,
    args: Sequence[str],
    rootfs: Path,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Write an OCI bundle into `folder`; its root is `rootfs` by absolute path.

    `change` may edit the spec before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = oci_spec(args, str(rootfs))
    if change is not None:
        change(spec)
    (folder / "config.json").write_text(json.dumps(spec, indent=1))
    return folder


def tar_of(rootfs: Path) -> bytes:
    """The tree as an uncompressed tar with owners and times fixed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(rootfs.rglob("*")):
            info = tar.gettarinfo(str(path), arcname=str(path.relative_to(rootfs)))
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            # A device node or socket has no business in a test image; gettarinfo gives None.
            if info.isreg():
                with path.open("rb") as data:
                    tar.addfile(info, data)
            else:
                tar.addfile(info)
    return out.getvalue()


def docker_archive(
    target: Path, reference: str, layers: Sequence[bytes], plain: Sequence[bytes] | None = None
) -> Path:
    """An image of tar `layers` as `docker load` reads it, written to `target`.

    When `layers` are compressed, `plain` holds the same tars uncompressed, for the diff ids.
    """
    ids = [hashlib.sha256(layer).hexdigest() for layer in plain or layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "bench"} for _ in ids],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{one}" for one in ids]},
    }
    raw = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(raw).hexdigest()}.json"
    tagged = reference if ":" in reference else f"{reference}:latest"
    names = [f"{one}/layer.tar" for one in ids]
    manifest = [{"Config": config_name, "RepoTags": [tagged], "Layers": names}]
    members = [(config_name, raw), ("manifest.json", json.dumps(manifest).encode())]
    members += zip(names, layers, strict=True)
    with tarfile.open(target, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target
