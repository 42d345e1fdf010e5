"""Images and bundles that try to make the runtime act on the host's files instead of their own."""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.security.sandbox import Sandbox, Spec

pytestmark = pytest.mark.root

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder on the host that must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "host-secret").write_text("untouched")
    return folder


def untouched(folder: Path) -> bool:
    return [p.name for p in folder.iterdir()] == ["host-secret"] and (
        folder / "host-secret"
    ).read_text() == "untouched"


def adding(mount: dict[str, object]) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        spec["mounts"].append(mount)

    return change


@pytest.mark.parametrize("form", ["cwd", "image"])
def test_no_descriptor_as_working_folder(sandbox: Sandbox, outside: Path, form: str) -> None:
    """CVE-2024-21626: /proc/self/fd/N, named by the configuration or by a link in the image."""
    leak = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(leak, True)
    try:
        for number in (*range(3, 12), leak):
            target = f"/proc/self/fd/{number}"
            if form == "image":
                link = sandbox.rootfs / "work"
                link.unlink(missing_ok=True)
                link.symlink_to(target)

            def change(spec: Spec, target: str = target) -> None:
                spec["process"]["cwd"] = target if form == "cwd" else "/work"

            escape = f"cat ../../../../../../../../..{outside}/host-secret; pwd -P"
            ran = sandbox.shell(escape, change, close_fds=False)
            assert "untouched" not in ran.out
            assert ran.code != 0, ran
    finally:
        os.close(leak)


def test_an_executed_process_has_no_descriptor_as_folder(sandbox: Sandbox, outside: Path) -> None:
    name = sandbox.start(["/bin/sleep", "1000"])
    for number in range(3, 10):
        escape = f"cat ../../../../../../../../..{outside}/host-secret"
        args = ["/bin/sh", "-c", escape]
        ran = sandbox.exec(name, args, "--cwd", f"/proc/self/fd/{number}")
        assert "untouched" not in ran.out
        assert ran.code != 0


def test_mount_targets_stay_in_the_image(sandbox: Sandbox, outside: Path) -> None:
    """A link to an absolute path of the host, one that climbs, and a target that climbs."""
    (sandbox.rootfs / "absolute").symlink_to(outside)
    (sandbox.rootfs / "climbing").symlink_to("../" * 20 + str(outside)[1:])
    targets = ("/absolute/made", "/climbing/made", f"/../../../../../..{outside}/made")
    for target in targets:
        mount = {
            "destination": target,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["size=64k"],
        }
        ran = sandbox.shell(f"grep -c ' {outside}/made ' /proc/self/mountinfo", adding(mount))
        assert untouched(outside), target
        # The same path, inside the image.
        assert ran.code != 0 or ran.out.strip() == "1", (target, ran)


def test_bound_files_stay_in_the_image(sandbox: Sandbox, outside: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("bound")
    (sandbox.rootfs / "etc/resolv.conf").symlink_to(outside / "host-secret")
    mount = {
        "destination": "/etc/resolv.conf",
        "type": "bind",
        "source": str(source),
        "options": ["rbind"],
    }
    ran = sandbox.shell("cat /etc/resolv.conf; echo changed > /etc/resolv.conf", adding(mount))
    assert untouched(outside)
    assert ran.code != 0 or "bound" in ran.out


def test_proc_as_a_link_gives_no_unmasked_proc(sandbox: Sandbox, outside: Path) -> None:
    """With /proc a link, masks must still lie where the procfs is."""
    os.rmdir(sandbox.rootfs / "proc")
    (sandbox.rootfs / "elsewhere").mkdir()
    (sandbox.rootfs / "proc").symlink_to("elsewhere")
    ran = sandbox.shell(
        "for f in /proc /elsewhere; do head -c1 $f/kcore; echo x > $f/sys/kernel/core_pattern; "
        "echo x > $f/sysrq-trigger-test; done 2>/dev/null; ls /proc/keys /elsewhere/keys | wc -l"
    )
    assert "core" not in ran.out
    assert ran.out.strip() in ("", "0", "2") and len(ran.out) < 8, ran


@pytest.fixture
def core_pattern() -> object:
    before = CORE_PATTERN.read_text()
    yield before
    changed = CORE_PATTERN.read_text()
    if changed != before:
        CORE_PATTERN.write_text(before)
    assert changed == before


def without_dev(spec: Spec) -> None:
    """Take the fresh /dev away, so that the image's own counts."""
    spec["mounts"] = [m for m in spec["mounts"] if not m["destination"].startswith("/dev")]


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/etc/passwd"])
def test_the_images_dev_null_is_no_mask(
    sandbox: Sandbox, core_pattern: object, target: str
) -> None:
    """CVE-2025-31133: masks made of the image's /dev/null, a link to a file of procfs."""
    null = sandbox.rootfs / "dev/null"
    null.unlink(missing_ok=True)
    null.symlink_to(target)
    ran = sandbox.shell("cat /proc/keys /proc/timer_list; echo '|/evil' > /proc/keys", without_dev)
    assert "root:" not in ran.out
    assert "core" not in ran.out


def test_the_images_console_is_no_mount_target_outside(
    sandbox: Sandbox, core_pattern: object, outside: Path
) -> None:
    """CVE-2025-52565: /dev/console as a link, over which the terminal is bound."""
    import pty

    console = sandbox.rootfs / "dev/console"
    console.unlink(missing_ok=True)
    console.symlink_to("/proc/sys/kernel/core_pattern")

    def change(spec: Spec) -> None:
        without_dev(spec)
        spec["process"]["terminal"] = True
        spec["mounts"].append(
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666"]}
        )  # fmt: skip

    name, folder = sandbox.bundle(
        ["/bin/sh", "-c", "echo '|/evil' > /proc/sys/kernel/core_pattern; echo end"], change
    )
    master, slave = pty.openpty()
    try:
        import subprocess

        done = subprocess.run(
            [sandbox.program, "--root", str(sandbox.state), "run", "-b", str(folder), name],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in os.read(master, 4096).decode(errors="replace")
        assert done.returncode in (0, 1)
    finally:
        os.close(slave)
        os.close(master)


def test_sysctls_are_written_to_the_kernel_alone(sandbox: Sandbox, outside: Path) -> None:
    """CVE-2025-52881: the image's files in /proc's place get nothing meant for sysctls."""
    fake = sandbox.rootfs / "proc/sys/kernel"
    fake.mkdir(parents=True)
    (fake / "shm_rmid_forced").symlink_to("/written")

    def change(spec: Spec) -> None:
        spec["mounts"] = [m for m in spec["mounts"] if m["destination"] != "/proc"]
        spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []
        spec["linux"]["sysctl"]["kernel.shm_rmid_forced"] = "1"

    sandbox.shell("true", change)
    assert not (sandbox.rootfs / "written").exists()
    assert untouched(outside)


@pytest.mark.parametrize(
    "name",
    ["kernel/../../self/comm", "net.ipv4/../../../self/comm", "../self/comm", "kernel.panic"],
)
def test_sysctls_of_the_host_are_refused(sandbox: Sandbox, name: str) -> None:
    def change(spec: Spec) -> None:
        spec["linux"]["sysctl"] = {name: "0"}

    ran = sandbox.shell("true", change)
    assert ran.code != 0, ran
    assert "Traceback" not in ran.err


def test_masked_and_read_only_paths_follow_no_link_out(sandbox: Sandbox, outside: Path) -> None:
    (sandbox.rootfs / "evil").symlink_to(outside / "host-secret")
    (sandbox.rootfs / "evil-folder").symlink_to(outside)

    def change(spec: Spec) -> None:
        spec["linux"]["maskedPaths"] = ["/evil", "/evil-folder", f"/../../../..{outside}"]
        spec["linux"]["readonlyPaths"] = ["/evil", "/evil-folder"]

    ran = sandbox.shell("cat /evil /evil-folder/host-secret", change)
    assert "untouched" not in ran.out
    assert untouched(outside)


def test_device_nodes_are_made_inside(sandbox: Sandbox, outside: Path) -> None:
    (sandbox.rootfs / "link").symlink_to(outside)

    def change(spec: Spec) -> None:
        spec["linux"]["devices"] = [
            {"path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}
            for path in ("/link/node", f"/../../../../..{outside}/node", "/dev/../../../link/node2")
        ]

    sandbox.shell("true", change)
    assert untouched(outside)


def test_a_root_that_swaps_while_it_is_mounted(sandbox: Sandbox, outside: Path) -> None:
    """Another process exchanges a folder of the image with a link out, all the time."""
    folder, link = sandbox.rootfs / "data", sandbox.rootfs / "other"
    folder.mkdir()
    link.symlink_to(outside)
    libc = ctypes.CDLL(None, use_errno=True)
    stop = threading.Event()

    def swap() -> None:
        one, two = os.fsencode(folder), os.fsencode(link)
        while not stop.is_set():
            libc.renameat2(-100, one, -100, two, 2)

    mount = {"destination": "/data/a/b/c", "type": "tmpfs", "source": "x", "options": ["size=64k"]}
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(12):
            sandbox.shell("true", adding(mount))
            assert untouched(outside)
    finally:
        stop.set()
        thread.join()
