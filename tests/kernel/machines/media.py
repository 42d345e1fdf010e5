"""A tiny guest on a disc that boots by BIOS and by UEFI: Debian's cloud kernel and busybox.

The same file is a disc (`--cdrom`) and a disk (`--disk`): grub-mkrescue makes it hybrid. The guest
has logins on the serial line and on the screen, asks for an address by DHCP, and follows the power
button.
"""

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
from pathlib import Path

import zstandard
from tests.kernel.vm import linux
from tests.kernel.vm.initramfs import BUSYBOX, Archive

MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi", "sd_mod", "sr_mod", "ahci", "isofs"),
    *("button", "evdev", "e1000", "ext4", "virtiofs", "9pnet_virtio", "9p"),
)
APPLETS = (
    "sh mount umount getty login udhcpc ip httpd acpid poweroff reboot insmod cat ls echo dd sync "
    "sleep mkdir hostname wget uname date test ps mke2fs nc ifconfig route grep free nproc"
).split()
INIT = r"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules.list); do insmod /modules/$module 2>/dev/null; done
hostname tiny
ip link set lo up
ip link set eth0 up 2>/dev/null && udhcpc -q -n -i eth0 -s /dhcp.sh >/dev/null 2>&1
echo "served by tiny" > /www/index.html
httpd -h /www
acpid -d -c /etc/acpi -l /dev/null >/dev/null 2>&1 &
echo "tiny guest is up"
getty -L 0 tty1 linux &
while true; do getty -L 115200 ttyS0 vt100; done
"""
DHCP = r"""#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/${mask:-24} dev $interface
ip route add default via $router
echo "nameserver $dns" > /etc/resolv.conf
"""
POWER = "#!/bin/sh\nsync\npoweroff -f\n"
GRUB = """serial --unit=0 --speed=115200
terminal_input console
terminal_output console
set timeout=0
linux /vmlinuz console=tty1 console=ttyS0 quiet loglevel=3 cryptomgr.notests panic=-1
initrd /initrd
boot
"""


def hybrid(folder: Path) -> Path:
    """The medium, made once and kept; RuntimeError with the reason when it cannot be."""
    kernel = linux.fetch()
    target = linux.cache_folder() / f"tiny-{kernel.modules.name}-{_version()}.iso"
    if target.exists():
        return target
    tree = folder / "tree"
    (tree / "boot/grub").mkdir(parents=True)
    shutil.copyfile(kernel.image, tree / "vmlinuz")
    write_initramfs(tree / "initrd", kernel)
    (tree / "boot/grub/grub.cfg").write_text(GRUB)
    made = folder / "tiny.iso"
    done = subprocess.run(
        ["grub-mkrescue", "-o", str(made), str(tree), "--", "-volid", "TINY"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"grub-mkrescue: {done.stderr[-500:]}")
    fresh = target.with_suffix(f".{os.getpid()}")
    shutil.copyfile(made, fresh)
    fresh.rename(target)
    return target


def write_initramfs(target: Path, kernel: linux.Linux) -> None:
    """The root of the guest."""
    plain = io.BytesIO()
    with contextlib.closing(Archive(plain)) as archive:
        for name in ("proc", "sys", "dev", "tmp", "www", "mnt", "root"):
            archive.folder(name)
        archive.copy(BUSYBOX, "bin/busybox")
        for name in APPLETS:
            archive.link(f"bin/{name}", "busybox")
        archive.link("sbin", "bin")
        modules = kernel.module_files(MODULES)
        for path in modules:
            archive.copy(path, f"modules/{path.name}")
        archive.data("modules.list", "\n".join(path.name for path in modules).encode())
        archive.data("init", INIT.encode(), 0o755)
        archive.data("dhcp.sh", DHCP.encode(), 0o755)
        archive.data("etc/passwd", b"root::0:0:root:/root:/bin/sh\n")
        archive.data("etc/group", b"root:x:0:\n")
        archive.data("etc/issue", b"Tiny guest \\n on \\l\n")
        archive.data("etc/acpi/PWRF/00000080", POWER.encode(), 0o755)
    target.write_bytes(zstandard.compress(plain.getvalue(), 9))


def _version() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
