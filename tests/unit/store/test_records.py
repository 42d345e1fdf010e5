"""Records: names, transactions, threads, versions, and death in the middle."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from skerry.base.errors import Conflict, NotFound, SystemFault, Unsupported
from skerry.store.records import Record, Records


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(str(tmp_path / "r.db"))


def test_put_get_find_all_delete(records: Records) -> None:
    records.put("container", "2", {"a": [1, "é"]}, name="two")
    records.put("container", "1", {})
    assert records.get("container", "2") == {"a": [1, "é"]}
    assert records.find("container", "two") == Record("2", "two", {"a": [1, "é"]})
    assert records.find("container", "three") is None
    assert records.find("image", "two") is None
    assert [each.id for each in records.all("container")] == ["1", "2"]
    assert records.delete("container", "1")
    assert not records.delete("container", "1")
    with pytest.raises(NotFound, match="no such container: 1"):
        records.get("container", "1")


def test_a_full_disk_leaves_no_transaction_open(records: Records) -> None:
    records.put("container", "1", {})
    connection = records._connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SystemFault, match="full"), records.transaction():
        records.delete("container", "1")
        records.put("container", "2", {"large": "x" * 100_000})
    connection.execute("PRAGMA max_page_count = 10000")
    with records.transaction():
        records.put("container", "3", {})
    assert [row.id for row in Records(records.path).all("container")] == ["1", "3"]


def test_a_commit_that_fails_is_a_fault_of_the_system(records: Records) -> None:
    reader = Records(records.path)
    with reader.transaction(), pytest.raises(SystemFault, match="locked"):
        records._connection().execute("PRAGMA busy_timeout = 0")
        with records.transaction():
            pass
    records.put("container", "1", {})


def test_names_are_unique_within_a_kind(records: Records) -> None:
    records.put("container", "1", {}, name="n")
    records.put("volume", "1", {}, name="n")
    with pytest.raises(Conflict, match="'n' is already in use"):
        records.put("container", "2", {}, name="n")
    records.put("container", "1", {"x": 1}, name="m")
    records.put("container", "2", {}, name="n")


def test_transactions_happen_together_or_not_at_all(records: Records) -> None:
    with pytest.raises(RuntimeError), records.transaction():
        records.put("k", "1", {})
        with records.transaction():
            records.put("k", "2", {})
        raise RuntimeError
    assert records.all("k") == []
    with records.transaction():
        records.put("k", "1", {})
        with pytest.raises(Conflict):
            records.put("k", "2", {}, name="a")
            records.put("k", "3", {}, name="a")
    assert [each.id for each in records.all("k")] == ["1", "2"]


def test_threads_write_beside_one_another(records: Records) -> None:
    def work(number: int) -> None:
        for step in range(50):
            records.put("k", f"{number}-{step}", {"step": step})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records.all("k")) == 200


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "r.db")
    Records(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Unsupported, match="schema version 99"):
        Records(path)


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(SystemFault, match="not a database"):
        Records(str(path))


def test_closed(records: Records) -> None:
    records.close()
    with pytest.raises((SystemFault, sqlite3.ProgrammingError)):
        records.put("k", "1", {})


def test_what_was_written_survives_a_killed_process(tmp_path: Path) -> None:
    path = str(tmp_path / "r.db")
    program = (
        "import os, signal, sys; from skerry.store.records import Records\n"
        "r = Records(sys.argv[1]); r.put('k', 'a', {'n': 1})\n"
        "with r.transaction():\n"
        "    r.put('k', 'b', {'n': 2}); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == -9
    assert os.path.exists(path + "-wal")
    assert [each.id for each in Records(path).all("k")] == ["a"]
