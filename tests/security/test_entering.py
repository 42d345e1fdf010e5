"""Processes that enter from outside must leave nothing writable, readable or driveable behind.

CVE-2019-5736: the host's runtime binary was writable through /proc/PID/exe of a process that
entered, once it had gone; directly, or by making it execute itself again (`#!/proc/self/exe`).
Here files are only opened, never written: a success is reported and fails the test.
"""

import hashlib
import os
import sys
from pathlib import Path

import pytest
from tests.security.sandbox import PRELUDE, Sandbox, Spec, mount_python

pytestmark = pytest.mark.root

# Refusals that hold for good. ETXTBSY does not: it ends with the process that executes the file.
SAFE = {"EROFS", "EACCES", "EPERM"}

HUNTER = """
import time
found = {}
own = {os.stat(p).st_ino for p in ("/usr/bin/python3", "/bin/busybox")}
end = time.monotonic() + 60
while not os.path.exists("/tmp/stop") and time.monotonic() < end:
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        try:
            link = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
        except OSError as error:
            found.setdefault("read " + errno.errorcode[error.errno], 0)
            continue
        if os.fstat(link).st_ino in own and os.readlink(f"/proc/self/fd/{link}").startswith("/bin"):
            os.close(link)
            continue
        for path in (f"/proc/self/fd/{link}", f"/proc/{pid}/exe"):
            name = "write " + attempt(lambda: os.close(os.open(path, os.O_WRONLY)))
            found[name] = found.get(name, 0) + 1
        os.close(link)
with open("/tmp/found", "w") as file:
    json.dump(found, file)
"""


def digest() -> str:
    return hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()


@pytest.mark.parametrize("caps", [[], ["SYS_PTRACE", "DAC_READ_SEARCH"]], ids=["default", "ptrace"])
def test_the_interpreter_cannot_be_overwritten_from_inside(
    sandbox: Sandbox, caps: list[str]
) -> None:
    import json

    before = digest()
    script = PRELUDE + HUNTER
    name = sandbox.start(
        ["/usr/bin/python3", "-I", "-S", "-c", script], mount_python, host={"CapAdd": caps}
    )
    for _ in range(12):
        assert sandbox.exec(name, ["/bin/true"]).code == 0
    sandbox.exec(name, ["/bin/touch", "/tmp/stop"])
    for _ in range(200):
        ran = sandbox.exec(name, ["/bin/cat", "/tmp/found"])
        if ran.code != 0:
            break
        if ran.out.endswith("}"):
            break
    result = sandbox.rootfs / "tmp/found"
    found = json.loads(result.read_text())
    writes = {key.removeprefix("write ") for key in found if key.startswith("write ")}
    assert writes <= SAFE | {"ENOENT", "ESRCH"}, found
    assert digest() == before


SELF_EXE = (
    "#!/proc/self/exe\n"
    "import errno, os\n"
    "try:\n"
    "    os.close(os.open('/proc/self/exe', os.O_WRONLY))\n"
    "    print('OPENED', os.readlink('/proc/self/exe'))\n"
    "except OSError as error:\n"
    "    print(errno.errorcode[error.errno], os.readlink('/proc/self/exe'))\n"
)


def _evil(sandbox: Sandbox) -> None:
    evil = sandbox.rootfs / "evil"
    evil.write_text(SELF_EXE)
    evil.chmod(0o755)


def _assert_refused(out: str) -> None:
    for line in out.splitlines():
        word = line.split()[0]
        assert word in SAFE, f"the host's file is writable: {line}"


def test_the_first_process_executing_itself_again(sandbox: Sandbox) -> None:
    before = digest()
    _evil(sandbox)
    _assert_refused(sandbox.run(["/evil"], mount_python).out)
    assert digest() == before


def test_an_executed_process_executing_itself_again(sandbox: Sandbox) -> None:
    before = digest()
    _evil(sandbox)
    name = sandbox.start(["/bin/sleep", "100"], mount_python)
    for _ in range(3):
        _assert_refused(sandbox.exec(name, ["/evil"]).out)
    (sandbox.rootfs / "bin/direct").symlink_to("/proc/self/exe")
    ran = sandbox.exec(name, ["/bin/direct", "-I", "-S", "-c", SELF_EXE])
    _assert_refused(ran.out)
    assert digest() == before


def test_an_entering_process_shows_no_descriptor_and_no_memory(sandbox: Sandbox) -> None:
    """A watcher inside reads /proc/PID of all that comes, as long as it is not the program yet."""
    import json

    watcher = """
    import time
    own, seen = os.getpid(), {}
    end = time.monotonic() + 60
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
    with open("/tmp/seen", "w") as file:
        json.dump(seen, file)
    """
    from tests.security.sandbox import python

    name = sandbox.start(python(watcher), mount_python)
    for _ in range(12):
        sandbox.exec(name, ["/bin/true"])
    sandbox.exec(name, ["/bin/touch", "/tmp/stop"])
    result = sandbox.rootfs / "tmp/seen"
    for _ in range(300):
        if result.exists() and result.read_text().endswith("}"):
            break
        if sandbox.status(name) != "running":
            break
    seen = json.loads(result.read_text())
    foreign = {k: v for k, v in seen.items() if not k.startswith("/bin/busybox ")}
    assert not foreign, foreign


def test_a_terminal_takes_no_input_from_inside(sandbox: Sandbox) -> None:
    """TIOCSTI on every descriptor must not type into the caller's terminal."""
    import pty
    import select
    import subprocess

    script = """
    import fcntl, termios
    for number in (0, 1, 2):
        for byte in b"echo injected\\n":
            try:
                fcntl.ioctl(number, termios.TIOCSTI, bytes([byte]))
            except OSError:
                break
    """
    from tests.security.sandbox import python

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
            timeout=30,
            check=False,
        )
        assert done.returncode == 0
        ready, _, _ = select.select([slave], [], [], 0)
        assert not ready, os.read(slave, 100)
    finally:
        os.close(slave)
        os.close(master)
