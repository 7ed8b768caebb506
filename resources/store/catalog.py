"""The lake's ledger and documents: one SQLite file that several processes use at once."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from resources.datasets import Partition
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.ledger import LedgerEntry

_TABLES = """
CREATE TABLE IF NOT EXISTS ledger (
    dataset TEXT NOT NULL, symbol TEXT NOT NULL, day TEXT NOT NULL, version TEXT NOT NULL, entry TEXT NOT NULL,
    PRIMARY KEY (dataset, symbol, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    collection TEXT NOT NULL, key TEXT NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (collection, key)
) WITHOUT ROWID;
"""


@dataclass
class _Connection:
    """One connection, and the lock of whoever uses it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: sqlite3.Connection | None = None


class Catalog:
    """Ledger entries and JSON documents, durable when a call returns. Safe to use from several threads.

    Raises Unavailable when the file is locked for more than `patience` seconds or the disk is full, Rejected
    when it cannot be opened, written or understood.
    """

    def __init__(self, path: Path, *, patience: float = 30.0) -> None:
        self._path = path
        self._patience = patience
        # A write may wait for another process for as long as patience lasts; no read may have to wait with it.
        self._writer = _Connection()
        self._reader = _Connection()

    def open(self) -> None:
        """Connect, and make the tables if they are not there."""
        with _sqlite_errors(self._path):
            connection = self._connect()
            try:
                _write_ahead(connection, self._patience)
                connection.executescript(_TABLES)
                self._reader.opened = self._connect()
            except BaseException:
                connection.close()
                raise
            self._writer.opened = connection

    def close(self) -> None:
        """Disconnect. Harmless when repeated."""
        for one in (self._reader, self._writer):
            with one.lock:
                if one.opened is not None:
                    one.opened.close()
                    one.opened = None

    def put_entries(self, entries: Iterable[LedgerEntry]) -> None:
        """Write ledger entries, all or none."""
        rows = [(e.dataset, e.symbol, str(e.day), e.version, e.model_dump_json()) for e in entries]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?)", rows)

    def entries(
        self, dataset: str | None, symbol: str | None, start: date | None, end: date | None
    ) -> list[tuple[Partition, str, str]]:
        """Partition, version and JSON of each matching entry, sorted by partition."""
        rows = self._query(
            "SELECT dataset, symbol, day, version, entry FROM ledger "
            "WHERE dataset = coalesce(?, dataset) AND symbol = coalesce(?, symbol) AND day >= ? AND day < ? "
            "ORDER BY dataset, symbol, day",
            (dataset, symbol, str(start or date.min), str(end) if end else "9999-99-99"),
        )
        return [(Partition(row[0], row[1], date.fromisoformat(row[2])), row[3], row[4]) for row in rows]

    def delete_entry(self, partition: Partition) -> None:
        """Remove a partition's entry, if there is one."""
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM ledger WHERE dataset = ? AND symbol = ? AND day = ?",
                (partition.dataset, partition.symbol, str(partition.day)),
            )

    def put_document(self, collection: str, key: str, document: Mapping[str, Any]) -> None:
        """Write one document. Raises Rejected when it is not JSON."""
        try:
            text = json.dumps(dict(document), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Rejected(f"the document {key!r} of {collection!r} is not JSON: {error}") from error
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (collection, key, text))

    def documents(self, collection: str, key: str | None = None) -> list[dict[str, Any]]:
        """A collection's documents (or the one called `key`), sorted by key."""
        rows = self._query(
            "SELECT document FROM documents WHERE collection = ? AND key = coalesce(?, key) ORDER BY key",
            (collection, key),
        )
        return [json.loads(row[0]) for row in rows]

    def delete_document(self, collection: str, key: str) -> None:
        """Remove a document, if it is there."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM documents WHERE collection = ? AND key = ?", (collection, key))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._using(self._writer) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _query(self, sql: str, values: tuple[str | None, ...]) -> list[tuple[str, ...]]:
        with self._using(self._reader) as connection:
            return connection.execute(sql, values).fetchall()

    @contextmanager
    def _using(self, one: _Connection) -> Iterator[sqlite3.Connection]:
        with one.lock, _sqlite_errors(self._path):
            if one.opened is None:
                raise Unavailable(f"the store at {self._path.parent} is closed; open it first")
            yield one.opened

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=self._patience, isolation_level=None, check_same_thread=False)


def _write_ahead(connection: sqlite3.Connection, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # The switch does not wait for other processes that open the file at the same moment.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = FULL")


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except StreamForgeError:
        raise
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "full" in text:
            raise Unavailable(
                f"the disk of {path} is full; free some room and repeat, what was stored is kept"
            ) from error
        if "locked" in text or "disk I/O" in text:
            raise Unavailable(f"{path} cannot be used now ({text}); try again") from error
        raise Rejected(
            f"{path} cannot be opened or written ({text}); set STREAMFORGE_HOME to a folder you own"
        ) from error
