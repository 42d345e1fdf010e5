"""The run directory: lock, records, sockets with long paths."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import Conflict, SkerryError, SystemFault
from skerry.base.isolation import Exit, Started
from skerry.runtime import rundir


def test_the_lock_names_its_keeper_and_ends_with_the_descriptor(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert rundir.keeper_of(folder) is None
    lock = rundir.take_lock(folder, os.getpid())
    assert rundir.keeper_of(folder) == Started(os.getpid(), rundir.start_time(os.getpid()))
    with pytest.raises(Conflict, match="already has a keeper"):
        rundir.take_lock(folder, os.getpid())
    os.close(lock)
    assert rundir.keeper_of(folder) is None
    os.close(rundir.take_lock(folder, os.getpid()))


def test_the_lock_ends_with_a_killed_process(tmp_path: Path) -> None:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            rundir.take_lock(str(tmp_path), os.getpid())
            os.write(told, b"x")
            signal.pause()
        finally:
            os._exit(0)
    os.read(ready, 1)
    keeper = rundir.keeper_of(str(tmp_path))
    assert keeper is not None
    assert keeper.pid == pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert rundir.keeper_of(str(tmp_path)) is None
    os.close(ready)
    os.close(told)


def test_a_lock_that_was_just_taken_has_a_keeper_without_pid(tmp_path: Path) -> None:
    lock = rundir.take_lock(str(tmp_path), os.getpid())
    os.ftruncate(lock, 0)
    assert rundir.keeper_of(str(tmp_path)) == Started(0, 0)
    os.close(lock)


def test_sockets_work_below_paths_of_any_length(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    assert rundir.connect(str(deep)) is None
    with rundir.listen(str(deep)) as listener:
        listener.setblocking(True)
        client = rundir.connect(str(deep))
        assert client is not None
        server, _ = listener.accept()
        client.send(b"hello")
        assert server.recv(10) == b"hello"
        server.close()
        client.close()
    assert (deep / rundir.SOCKET).stat().st_mode & 0o077 == 0
    assert rundir.connect(str(deep)) is None
    rundir.listen(str(deep)).close()


def test_an_exit_record_comes_back(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert rundir.read_exit(folder) is None
    end = Exit(137, True, 1700000000.25, "why")
    rundir.write_exit(folder, end, signal.SIGKILL)
    assert rundir.read_exit(folder) == end
    assert os.listdir(folder) == [rundir.EXIT]


@given(st.binary(max_size=300))
def test_a_damaged_record_is_a_fault_and_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / rundir.TASK).write_bytes(data)
    with pytest.raises(SystemFault):
        rundir.read_json(str(folder), rundir.TASK)


def test_start_time_tells_processes_apart() -> None:
    assert rundir.start_time(os.getpid()) > rundir.start_time(1) >= 0
    assert rundir.start_time(2**22 + 1) == 0


def test_faults_name_the_path(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    for attempt in (
        lambda: rundir.take_lock(missing, 1),
        lambda: rundir.listen(missing),
        lambda: rundir.write_json(missing, "x", {}),
    ):
        with pytest.raises(SkerryError, match="none"):
            attempt()
