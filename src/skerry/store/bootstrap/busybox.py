"""The `busybox` image: one static program under its many names, and the few files it expects."""

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from skerry.base.errors import NotFound, SystemFault
from skerry.store.bootstrap.base import Report, make_folder, make_image, tell, write_file

if TYPE_CHECKING:
    from skerry.store.images import Images

_FOLDERS: Final = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "run": 0o755,
    "sbin": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/spool/mail": 0o755,
    "var/tmp": 0o1777,
    "var/www": 0o755,
}
_PASSWD: Final = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUP: Final = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
audio:x:29:
www-data:x:33:
operator:x:37:
video:x:44:
users:x:100:
nogroup:x:65534:
"""
_FILES: Final = {
    "etc/passwd": _PASSWD,
    "etc/group": _GROUP,
    "etc/hosts": "",
    "etc/hostname": "",
    "etc/resolv.conf": "",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/os-release": 'ID=busybox\nNAME="BusyBox"\nPRETTY_NAME="BusyBox"\n',
}
_SHADOW: Final = "root:*:::::::\nnobody:*:::::::\n"
_APPLET: Final = re.compile(r"(?:usr/)?s?bin/[A-Za-z0-9._+\[-]+|linuxrc")


def make(images: "Images", tag: str, binary: str, progress: Report | None) -> str:
    """The image's id. NotFound when there is no busybox."""
    try:
        created = int(os.stat(binary).st_mtime)
    except FileNotFoundError:
        raise NotFound(
            f"make the image {tag}: there is no {binary}",
            hint="install it: apt-get install busybox-static",
        ) from None
    version, applets = _ask(binary)
    tell(progress, f"making {tag} from {binary} ({version}, {len(applets)} programs)")
    with images.leases.hold(), images.scratch.folder("busybox") as tree:
        os.chmod(tree, 0o755)
        for folder, mode in _FOLDERS.items():
            make_folder(tree, folder, mode)
        for path, text in _FILES.items():
            write_file(tree, path, text)
        write_file(tree, "etc/shadow", _SHADOW, 0o640)
        os.symlink("/proc/mounts", f"{tree}/etc/mtab")
        shutil.copyfile(binary, f"{tree}/bin/busybox")
        os.chmod(f"{tree}/bin/busybox", 0o755)
        for applet in applets:
            link = f"{tree}/{applet}"
            if applet.startswith(("bin/", "sbin/", "usr/")) and not os.path.lexists(link):
                os.link(f"{tree}/bin/busybox", link)
        _set_times(tree, created)
        return make_image(
            images,
            tree,
            tag=tag,
            created=created,
            created_by=f"skerry bootstrap busybox # {version}",
            command=["sh"],
            labels={
                "org.opencontainers.image.title": "busybox",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.description": "BusyBox, from busybox-static",
                "org.opencontainers.image.licenses": "GPL-2.0-only",
            },
        )


def _ask(binary: str) -> tuple[str, list[str]]:
    """Its version and the paths of its applets. SystemFault when it is dynamic or does not run."""
    try:
        listed = subprocess.run(
            [binary, "--list-full"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
        shown = _usage(binary)
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemFault(f"run {binary}: {error}") from None
    with open(binary, "rb") as file:
        if b"/ld-linux" in file.read(4096):
            raise SystemFault(
                f"{binary} is linked dynamically and would not run in an empty image",
                hint="install the static one: apt-get install busybox-static",
            )
    match = re.match(r"BusyBox v(\S+)", shown)
    version = match[1] if match else "unknown"
    return version, sorted({each for each in listed.split() if _APPLET.fullmatch(each)})


def _usage(binary: str) -> str:
    # Without an applet it prints its version and fails.
    return subprocess.run([binary], capture_output=True, text=True, timeout=20, check=False).stdout


def _set_times(tree: str, seconds: int) -> None:
    for folder, folders, files in os.walk(tree, topdown=False):
        for name in (*files, *folders):
            os.utime(os.path.join(folder, name), (seconds, seconds), follow_symlinks=False)
    os.utime(tree, (seconds, seconds))
