"""The embedded bus's file: topics, messages and groups in one SQLite database, without asyncio.

A `LogFile` is one connection and belongs to one thread. A message's row id is its topic's id and its offset in one
number, so a topic is one contiguous range of the table, and reading it in order needs no index.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from resources.bus import sqlite_sweep
from resources.bus.port import Delivery, Message, Start, TakenOver
from resources.bus.sqlite_errors import LogErrors, code_of
from resources.bus.sqlite_schema import FORMAT, PAGE, SCHEMA, TOPIC_ROOM, row_id, rows_of
from resources.bus.value_files import LARGE, ValueFiles, ValuePlace, ValueReader
from resources.errors import Rejected

BATCH_BYTES: Final = 8_000_000
"""About how much one read returns; it always returns at least one message."""

_WAL_PAGES: Final = 2_000


class _Turn:
    """The write lock of one file among this process's threads: SQLite's own waits by sleeping."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


_turns: WeakValueDictionary[Path, _Turn] = WeakValueDictionary()
_turns_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Place:
    """A group's right to read a topic: lost once another holder takes it."""

    topic: str
    group: str
    holder: str


class Extent(NamedTuple):
    """A topic, told from others of its name by `id`, and the offsets between which it holds messages."""

    name: str
    id: int
    first: int
    end: int


class _ValueLost(Rejected):
    """A value's bytes are not those that were written."""


class LogFile:
    """One connection to the log. Opens and makes the file as needed; use and close it in the thread that made it.

    Every method raises Unavailable when the file stays locked for `patience` seconds or there is no room, and
    Rejected when the file is not a log of this version.
    """

    def __init__(self, path: Path, *, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._errors = LogErrors(path, patience)
        self._values = ValueFiles(path.with_name(f"{path.name}.values"))
        with _turns_lock:
            self._turn = _turns.setdefault(path, _Turn())
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Manual transactions: what is atomic is stated where it happens.
            self._db = sqlite3.connect(path, timeout=patience, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the connection. Closing twice is harmless."""
        with self._translated():
            self._db.close()

    def append(self, topic: str, batch: Sequence[Message]) -> None:
        """Add `batch` to the end of `topic` in one transaction."""
        with self._transaction() as db:
            topic_id, first = db.execute(
                "INSERT INTO topics (name, next_offset) VALUES (?1, ?2) ON CONFLICT (name)"
                " DO UPDATE SET next_offset = next_offset + ?2 RETURNING id, next_offset - ?2",
                (topic, len(batch)),
            ).fetchone()
            db.executemany(
                "INSERT INTO messages (id, timestamp, key, headers, value, position, size, checksum)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                self._rows(batch, topic_id, first),
            )

    def _rows(self, batch: Sequence[Message], topic_id: int, first: int) -> Iterator[tuple[object, ...]]:
        now = time.time()
        with self._values.appending(topic_id) as file:
            for number, message in enumerate(batch, row_id(topic_id, first)):
                headers = json.dumps(dict(message.headers)) if message.headers else None
                if len(message.value) < LARGE:
                    yield number, now, message.key, headers, message.value, None, None, None
                else:
                    place = file.append(message.value)
                    yield number, now, message.key, headers, None, place.position, place.size, place.checksum

    def claim(self, place: Place, start: Start) -> int:
        """Make `place.holder` the group's only reader, and return the offset where it begins."""
        with self._transaction() as db:
            (position,) = db.execute(
                "INSERT INTO groups (topic, name, holder) VALUES (?, ?, ?) ON CONFLICT (topic, name)"
                " DO UPDATE SET holder = excluded.holder RETURNING position",
                (place.topic, place.group, place.holder),
            ).fetchone()
            if position is not None:
                return int(position)
            return 0 if start == "earliest" else self._end(place.topic) or 0

    def release(self, place: Place) -> None:
        """Forget a place that left no trace: nothing committed, and no topic."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM groups WHERE topic = ?1 AND name = ?2 AND holder = ?3 AND position IS NULL"
                " AND NOT EXISTS (SELECT 1 FROM topics WHERE name = ?1)",
                (place.topic, place.group, place.holder),
            )

    def commit(self, place: Place, position: int) -> None:
        """Move the group's position forward to `position`. Raises Rejected when the place is lost."""
        with self._transaction() as db:
            self._check(place)
            db.execute(
                "UPDATE groups SET position = ?1 WHERE topic = ?2 AND name = ?3 AND coalesce(position, 0) < ?1",
                (position, place.topic, place.group),
            )

    def read(self, place: Place, position: int, limit: int) -> list[Delivery]:
        """Return the messages from `position` on. Raises Rejected when the place is lost."""

        def look(db: sqlite3.Connection) -> list[Delivery]:
            self._check(place)
            topic_id = self._id(place.topic)
            if topic_id is None:
                return []
            return self._deliveries(db, place.topic, topic_id, (position, TOPIC_ROOM), limit)

        return self._look(look, place.topic, place.group)

    def read_between(self, topic: Extent, start: int, limit: int) -> list[Delivery]:
        """Return messages of `topic` from `start` up to its end then. Raises Rejected if it was deleted since."""

        def look(db: sqlite3.Connection) -> list[Delivery]:
            if self._id(topic.name) != topic.id:
                raise _deleted(topic.name, "a replay")
            return self._deliveries(db, topic.name, topic.id, (start, topic.end), limit)

        return self._look(look, topic.name, "a replay")

    def _look(
        self, look: Callable[[sqlite3.Connection], list[Delivery]], topic: str, reader: str
    ) -> list[Delivery]:
        """Look for messages; twice where a value is gone: its message may have been removed meanwhile."""
        with self._snapshot() as db, suppress(FileNotFoundError, _ValueLost):
            return look(db)
        with self._snapshot() as db:
            try:
                return look(db)
            except FileNotFoundError as error:
                raise _deleted(topic, reader) from error

    def extent(self, topic: str) -> Extent | None:
        """Where the topic begins and ends now; None without a topic."""
        with self._snapshot() as db:
            topic_id = self._id(topic)
            if topic_id is None:
                return None
            end = self._end(topic) or 0
            (first,) = db.execute(
                "SELECT min(id) FROM messages WHERE id >= ? AND id < ?",
                rows_of(topic_id),
            ).fetchone()
            return Extent(topic, topic_id, end if first is None else first - row_id(topic_id, 0), end)

    def _deliveries(
        self, db: sqlite3.Connection, topic: str, topic_id: int, between: tuple[int, int], limit: int
    ) -> list[Delivery]:
        base = row_id(topic_id, 0)
        rows = db.execute(
            "SELECT id, timestamp, key, headers, value, position, size, checksum FROM messages"
            " WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (base + between[0], base + between[1], limit),
        )
        with self._values.reading(topic_id) as file:
            return self._batch(topic, base, rows, file)

    def _batch(self, topic: str, base: int, rows: Iterable[tuple[Any, ...]], file: ValueReader) -> list[Delivery]:
        batch: list[Delivery] = []
        size = 0
        for number, timestamp, key, headers, inline, *where in rows:
            value = inline if inline is not None else file.read(ValuePlace(*where))
            if value is None:
                raise _ValueLost(
                    f"message {number - base} of {topic} was lost, as when the machine loses power; collect"
                    f" again, and move {self._path} away if that does not help"
                )
            message = Message(value, key, json.loads(headers) if headers else {})
            batch.append(Delivery(topic, 0, number - base, timestamp, message))
            size += len(value)
            if size >= BATCH_BYTES:
                break
        return batch

    def end(self, topic: str) -> int | None:
        """Return the offset of the next message, or None without a topic."""
        with self._translated():
            return self._end(topic)

    def committed(self, topic: str, group: str) -> int | None:
        """Return the group's position, or None where it has committed nothing."""
        with self._translated():
            found = self._db.execute(
                "SELECT position FROM groups WHERE topic = ? AND name = ?", (topic, group)
            ).fetchone()
        return None if found is None else found[0]

    def topics(self) -> list[str]:
        """Return the names of the topics, sorted."""
        with self._translated():
            rows = self._db.execute("SELECT name FROM topics WHERE name IS NOT NULL ORDER BY name").fetchall()
        return [name for (name,) in rows]

    def changes(self) -> int:
        """Return a number that differs once any other connection, in any process, has written."""
        with self._translated():
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def drop(self, topic: str) -> None:
        """Make `topic` and its groups disappear at once. Its pages are freed by `sweep`."""
        with self._transaction() as db:
            # The nameless row stays until the messages are gone, so that a crash cannot leave them unowned; its
            # id is never given again, so that a new topic cannot inherit them.
            if db.execute("UPDATE topics SET name = NULL WHERE name = ?", (topic,)).rowcount:
                db.execute("DELETE FROM groups WHERE topic = ?", (topic,))

    def sweep(self) -> bool:
        """Free a little of what dropped topics left, and return whether there may be more."""
        with self._transaction() as db:
            if sqlite_sweep.free_dropped(db, self._values):
                return True
        with self._writing():
            return sqlite_sweep.give_back(self._db)

    def expire(self, now: float) -> bool:
        """Remove a little of what topics no longer keep at `now`, and return whether there was any."""
        with self._snapshot() as db:
            expiry = sqlite_sweep.find_expired(db, now)
        if expiry is None:
            return False
        with self._transaction() as db:
            sqlite_sweep.expire(db, self._values, expiry)
        return True

    def _prepare(self) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._configure()
            except sqlite3.OperationalError as error:
                # The switch to WAL does not wait for its lock, whatever the timeout.
                if (
                    code_of(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                    or time.monotonic() > deadline
                ):
                    raise
            time.sleep(random.uniform(0.005, 0.05))

    def _configure(self) -> None:
        db = self._db
        db.execute(f"PRAGMA page_size = {PAGE}")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {2 * _WAL_PAGES * PAGE}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            try:
                db.executescript(SCHEMA)
            except sqlite3.Error:
                if db.in_transaction:
                    db.rollback()
                raise
        elif version != FORMAT:
            raise Rejected(
                f"{self._path} was written by another version of StreamForge (format {version}, this one reads"
                f" {FORMAT}); move it away and collect again"
            )

    def _end(self, topic: str) -> int | None:
        found = self._db.execute("SELECT next_offset FROM topics WHERE name = ?", (topic,)).fetchone()
        return None if found is None else int(found[0])

    def _id(self, topic: str) -> int | None:
        found = self._db.execute("SELECT id FROM topics WHERE name = ?", (topic,)).fetchone()
        return None if found is None else int(found[0])

    def _check(self, place: Place) -> None:
        found = self._db.execute(
            "SELECT holder FROM groups WHERE topic = ? AND name = ?", (place.topic, place.group)
        ).fetchone()
        if found is None:
            raise _deleted(place.topic, place.group)
        if found[0] != place.holder:
            raise TakenOver(place.group, place.topic)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back after some errors, such as a full disk.
                with suppress(sqlite3.Error):
                    self._db.rollback()
                raise

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._db.rollback()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if not self._turn.lock.acquire(timeout=self._patience):
            raise self._errors.locked()
        try:
            with self._translated():
                yield
        finally:
            self._turn.lock.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._errors.of_sqlite(error) from error
        except OSError as error:
            raise self._errors.of_system(error) from error


def _deleted(topic: str, reader: str) -> Rejected:
    return Rejected(f"the topic {topic} was deleted while {reader} read it; subscribe again")
