"""Processes that enter from outside must leave nothing writable, readable or driveable behind.

CVE-2019-5736: the host's runtime binary was writable through /proc/PID/exe of a process that
entered, once it had gone; directly, or by making it execute itself again (`#!/proc/self/exe`).
Nothing is written here: what could be written for ever is reported and fails the test.
"""

import hashlib
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.security.sandbox import PRELUDE, Outcome, Sandbox, Spec, mount_python, python
from tests.security.test_default_container import DOCKER_CAPABILITIES

pytestmark = pytest.mark.root

HUNTER = """
import time
found = {}
own = {os.stat(p).st_ino for p in ("/usr/bin/python3", "/bin/busybox")}
busybox = os.stat("/bin/busybox")
end = time.monotonic() + 120
while not os.path.exists("/tmp/stop") and time.monotonic() < end:
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        try:
            link = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
        except OSError as error:
            found["closed " + errno.errorcode[error.errno]] = True
            continue
        seen = os.fstat(link)
        if (seen.st_dev, seen.st_ino) != (busybox.st_dev, busybox.st_ino):
            found["writable" if host_can_be_written(link) else "read-only"] = True
        os.close(link)
with open("/tmp/found.new", "w") as file:
    json.dump(found, file)
os.rename("/tmp/found.new", "/tmp/found")
"""


def digest() -> str:
    return hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()


@pytest.mark.parametrize("caps", [[], ["SYS_PTRACE", "DAC_READ_SEARCH"]], ids=["default", "ptrace"])
def test_the_interpreter_cannot_be_overwritten_from_inside(
    sandbox: Sandbox, caps: list[str]
) -> None:

    before = digest()
    script = PRELUDE + HUNTER
    name = sandbox.start(
        ["/usr/bin/python3", "-I", "-S", "-c", script], mount_python, host={"CapAdd": caps}
    )
    for _ in range(12):
        assert sandbox.exec(name, ["/bin/true"]).code == 0
    sandbox.exec(name, ["/bin/touch", "/tmp/stop"])
    result = sandbox.rootfs / "tmp/found"
    wait_for(result)
    found = json.loads(result.read_text())
    assert "writable" not in found, found
    assert digest() == before


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} never came"
        time.sleep(0.05)


SELF_EXE = (
    "#!/proc/self/exe\n"
    + PRELUDE
    + """
fd = os.open("/proc/self/exe", os.O_RDONLY)
print("WRITABLE" if host_can_be_written(fd) else "safe", os.readlink("/proc/self/exe"))
"""
)


def _evil(sandbox: Sandbox) -> None:
    evil = sandbox.rootfs / "evil"
    evil.write_text(SELF_EXE)
    evil.chmod(0o755)


def _assert_refused(ran: Outcome) -> None:
    assert "WRITABLE" not in ran.out
    assert ran.out.startswith("safe") or ran.code != 0, ran


def test_the_first_process_executing_itself_again(sandbox: Sandbox) -> None:
    before = digest()
    _evil(sandbox)
    _assert_refused(sandbox.run(["/evil"], mount_python))
    assert digest() == before


def test_an_executed_process_executing_itself_again(sandbox: Sandbox) -> None:
    before = digest()
    _evil(sandbox)
    name = sandbox.start(["/bin/sleep", "1000"], mount_python)
    for _ in range(3):
        _assert_refused(sandbox.exec(name, ["/evil"]))
    (sandbox.rootfs / "bin/direct").symlink_to("/proc/self/exe")
    ran = sandbox.exec(name, ["/bin/direct", "-I", "-S", "-c", SELF_EXE])
    _assert_refused(ran)
    assert digest() == before


def test_an_entering_process_shows_no_descriptor_and_no_memory(sandbox: Sandbox) -> None:
    """A watcher inside reads /proc/PID of all that comes, as long as it is not the program yet."""

    watcher = """
    import time
    own, seen = os.getpid(), {}
    end = time.monotonic() + 120
    while not os.path.exists("/tmp/stop") and time.monotonic() < end:
        for pid in os.listdir("/proc"):
            if pid.isdigit() and int(pid) != own:
                try:
                    for number in os.listdir(f"/proc/{pid}/fd"):
                        if int(number) > 2:
                            target = os.readlink(f"/proc/{pid}/fd/{number}")
                            name = os.readlink(f"/proc/{pid}/exe")
                            seen[f"{name} {target}"] = attempt(
                                lambda: os.close(os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY)))
                except OSError:
                    pass
    with open("/tmp/seen.new", "w") as file:
        json.dump(seen, file)
    os.rename("/tmp/seen.new", "/tmp/seen")
    """
    name = sandbox.start(python(watcher), mount_python)
    for _ in range(12):
        sandbox.exec(name, ["/bin/true"])
    sandbox.exec(name, ["/bin/touch", "/tmp/stop"])
    result = sandbox.rootfs / "tmp/seen"
    wait_for(result)
    seen = json.loads(result.read_text())
    foreign = {k: v for k, v in seen.items() if not k.startswith("/bin/busybox ")}
    assert not foreign, foreign


def test_a_terminal_takes_no_input_from_inside(sandbox: Sandbox) -> None:
    """TIOCSTI on every descriptor must not type into the caller's terminal."""

    script = """
    import fcntl, termios
    for number in (0, 1, 2):
        for byte in b"echo injected\\n":
            try:
                fcntl.ioctl(number, termios.TIOCSTI, bytes([byte]))
            except OSError:
                break
    """

    def change(spec: Spec) -> None:
        mount_python(spec)
        spec["process"]["terminal"] = True

    name, folder = sandbox.bundle(python(script), change)
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sandbox.program, "--root", str(sandbox.state), "run", "-b", str(folder), name],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0
        ready, _, _ = select.select([slave], [], [], 0)
        assert not ready, os.read(slave, 100)
    finally:
        os.close(slave)
        os.close(master)


def test_a_fake_proc_does_not_decide_which_rights_are_dropped(sandbox: Sandbox) -> None:
    """Without a procfs, /proc is the image's: what it says of the last capability is its own."""
    fake = sandbox.rootfs / "proc/sys/kernel"
    fake.mkdir(parents=True)
    (fake / "cap_last_cap").write_text("-1\n")

    def change(spec: Spec) -> None:
        mount_python(spec)
        spec["mounts"] = [m for m in spec["mounts"] if m["destination"] != "/proc"]
        spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []

    script = """
    bits = [libc.prctl(23, number, 0, 0, 0) for number in range(41)]
    tell(sum(bit << number for number, bit in enumerate(bits)))
    """
    name = sandbox.start(["/bin/sleep", "1000"], change)
    assert sandbox.exec(name, python(script)).data == DOCKER_CAPABILITIES
    assert sandbox.run(python(script), change).data == DOCKER_CAPABILITIES


def paths_after_entering(trace: Path) -> list[str]:
    """Paths in system calls of the processes that entered, up to the execve of the program."""
    entered: set[str] = set()
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        pid, _, call = line.partition(" ")
        if "pivot_root(" in call or ("setns(" in call and "CLONE_NEWNS" in call):
            entered.add(pid)
        elif pid in entered and "execve(" in call:
            entered.discard(pid)
        elif pid in entered:
            found += re.findall(r'"(/[^"]*)"', call)
    return found


@pytest.mark.skipif(not shutil.which("strace"), reason="needs the Debian package strace")
@pytest.mark.parametrize("command", ["/bin/true", "nosuch", "/etc"])
def test_no_module_is_imported_inside(sandbox: Sandbox, tmp_path: Path, command: str) -> None:
    """Code that Python imported after entering would be the image's, with the host's rights."""
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-e", "trace=%file,setns", "-o", str(trace)]
    container = sandbox.start(["/bin/sleep", "1000"])
    name, folder = sandbox.bundle([command])
    runtime = [sandbox.program, "--root", str(sandbox.state)]
    for how in (["run", "-b", str(folder), name], ["exec", container, command]):
        subprocess.run([*strace, *runtime, *how], capture_output=True, timeout=120, check=False)
        paths = paths_after_entering(trace)
        assert paths, how
        assert not [p for p in paths if "python" in p or "skerry" in p or p.endswith(".py")]
