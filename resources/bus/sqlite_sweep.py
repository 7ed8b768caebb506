"""How the embedded bus's file loses what nobody may read any more: in small steps, so that writers get their turn.

Each function does one step on the log's connection, inside a write transaction unless it says otherwise.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from resources.bus.sqlite_schema import PAGE, rows_of
from resources.bus.topics import topic_rule
from resources.bus.value_files import ValueFiles

_SPARE_PAGES: Final = 128 * 1024 * 1024 // PAGE
_STEP_MESSAGES: Final = 200
_STEP_PAGES: Final = 512


class Expiry(NamedTuple):
    """A topic whose messages from before `until`, in seconds since the epoch, are no longer kept."""

    topic_id: int
    until: float


def find_expired(db: sqlite3.Connection, now: float) -> Expiry | None:
    """A topic whose oldest message is older than the topic's rule keeps it. Only reads."""
    for topic_id, name in db.execute("SELECT id, name FROM topics WHERE name IS NOT NULL").fetchall():
        until = now - topic_rule(name).retention
        oldest = db.execute(
            "SELECT timestamp FROM messages WHERE id >= ? AND id < ? ORDER BY id LIMIT 1", rows_of(topic_id)
        ).fetchone()
        if oldest is not None and oldest[0] < until:
            return Expiry(topic_id, until)
    return None


def expire(db: sqlite3.Connection, values: ValueFiles, expiry: Expiry) -> None:
    """Remove a few of a topic's old messages, and its file of values together with its last message."""
    _delete_some(db, expiry.topic_id, until=expiry.until)
    left = db.execute("SELECT 1 FROM messages WHERE id >= ? AND id < ? LIMIT 1", rows_of(expiry.topic_id))
    if left.fetchone() is None:
        values.drop(expiry.topic_id)


def free_dropped(db: sqlite3.Connection, values: ValueFiles) -> bool:
    """Remove a few messages of a topic that was dropped; false when there is none."""
    dropped = db.execute("SELECT id FROM topics WHERE name IS NULL LIMIT 1").fetchone()
    if dropped is None:
        return False
    if _delete_some(db, dropped[0]) < _STEP_MESSAGES:
        values.drop(dropped[0])
        db.execute("DELETE FROM topics WHERE id = ?", dropped)
    return True


def give_back(db: sqlite3.Connection) -> bool:
    """Give a few free pages back to the disk, outside a transaction; false when there are none to spare."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    surplus = min(free - _SPARE_PAGES, _STEP_PAGES)
    if surplus > 0:
        # execute() would stop at the first of its many steps, one page.
        db.executescript(f"PRAGMA incremental_vacuum({surplus})")
    return bool(surplus > 0)


def _delete_some(db: sqlite3.Connection, topic_id: int, *, until: float = float("inf")) -> int:
    return db.execute(
        "DELETE FROM messages WHERE timestamp < ? AND id IN"
        " (SELECT id FROM messages WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)",
        (until, *rows_of(topic_id), _STEP_MESSAGES),
    ).rowcount
