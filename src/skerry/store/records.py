"""Records: versioned plain data about images, layers and containers, in one SQLite file.

WAL with synchronous=NORMAL: a record survives the engine's death at once, a power cut may take the
last few, never consistency. Each thread has its own connection; writers wait for one another.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import msgspec

from skerry.base.errors import Conflict, NotFound, SystemFault, Unsupported

BUSY_SECONDS = 30

_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE record (
        kind TEXT NOT NULL,
        id   TEXT NOT NULL,
        name TEXT,
        data BLOB NOT NULL,
        PRIMARY KEY (kind, id)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX record_name ON record (kind, name) WHERE name IS NOT NULL;
    """,
)
"""Step n brings the schema from version n to n + 1; steps are only ever added."""


class Record(NamedTuple):
    """One record as stored."""

    id: str
    name: str | None
    data: dict[str, Any]


class Records:
    """Records by kind and id, some with a name that is unique within the kind. Thread-safe."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder().decode
        self._migrate()

    def put(self, kind: str, id: str, data: dict[str, Any], name: str | None = None) -> None:  # noqa: A002
        """Write or replace a record. Conflict when `name` belongs to another id of this kind."""
        try:
            self._run(
                "INSERT INTO record (kind, id, name, data) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (kind, id) DO UPDATE SET name = excluded.name, data = excluded.data",
                (kind, id, name, self._encode(data)),
            )
        except sqlite3.IntegrityError:
            raise Conflict(f"the {kind} name {name!r} is already in use") from None

    def get(self, kind: str, id: str) -> dict[str, Any]:  # noqa: A002
        """The data of a record, or NotFound."""
        row = self._run("SELECT data FROM record WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        if row is None:
            raise NotFound(f"no such {kind}: {id}")
        data: dict[str, Any] = self._decode(row[0])
        return data

    def find(self, kind: str, name: str) -> Record | None:
        """The record with this name, or None."""
        row = self._run(
            "SELECT id, name, data FROM record WHERE kind = ? AND name = ?", (kind, name)
        ).fetchone()
        return None if row is None else Record(row[0], row[1], self._decode(row[2]))

    def all(self, kind: str) -> list[Record]:
        """All records of a kind, ordered by id."""
        rows = self._run(
            "SELECT id, name, data FROM record WHERE kind = ? ORDER BY id", (kind,)
        ).fetchall()
        return [Record(id, name, self._decode(data)) for id, name, data in rows]  # noqa: A001

    def delete(self, kind: str, id: str) -> bool:  # noqa: A002
        """Remove a record; False when there was none."""
        return self._run("DELETE FROM record WHERE kind = ? AND id = ?", (kind, id)).rowcount > 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of this thread inside the block happen together or not at all. Nests."""
        connection = self._connection()
        if connection.in_transaction:
            yield
            return
        self._run("BEGIN IMMEDIATE", ())
        try:
            yield
            self._run("COMMIT", ())
        except BaseException:
            # SQLite has ended it by itself after some errors (a full disk), and not after others.
            with suppress(sqlite3.OperationalError):
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close every thread's connection; later calls fail."""
        with self._lock:
            self._closed = True
            connections, self._open = self._open, []
        for connection in connections:
            connection.close()

    def _run(self, sql: str, parameters: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._connection().execute(sql, parameters)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise SystemFault(f"records in {self.path}: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            self._local.connection = connection
        return connection

    def _connect(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise SystemFault(f"records in {self.path}: already closed")
            try:
                # Environments hold secrets; SQLite gives its -wal and -shm the same mode.
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                os.close(os.open(self.path, flags, 0o600))
                connection = sqlite3.connect(
                    self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
            except (sqlite3.Error, OSError) as error:
                raise SystemFault(f"open the records in {self.path}: {error}") from error
            self._open.append(connection)
            return connection

    def _migrate(self) -> None:
        with self.transaction():
            version = self._run("PRAGMA user_version", ()).fetchone()[0]
            if version > len(_MIGRATIONS):
                raise Unsupported(
                    f"{self.path} has schema version {version}, not up to {len(_MIGRATIONS)}",
                    hint="use the newer skerry that wrote it, or another --root",
                )
            for number, step in enumerate(_MIGRATIONS[version:], version + 1):
                for statement in step.split(";"):
                    if statement.strip():
                        self._run(statement, ())
                self._run(f"PRAGMA user_version = {number}", ())
