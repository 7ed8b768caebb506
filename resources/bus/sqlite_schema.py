"""The tables of the embedded bus's file, and where a message's row lies."""

from __future__ import annotations

from typing import Final

FORMAT: Final = 2
"""The version of the tables, kept in the file as `user_version`."""

PAGE: Final = 16_384
TOPIC_ROOM: Final = 1 << 40
"""Messages that one topic can ever have."""

SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, next_offset INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY, timestamp REAL NOT NULL, key TEXT NOT NULL, headers TEXT, value BLOB,
    position INTEGER, size INTEGER, checksum INTEGER);
CREATE TABLE IF NOT EXISTS groups (
    topic TEXT NOT NULL, name TEXT NOT NULL, holder TEXT NOT NULL, position INTEGER,
    PRIMARY KEY (topic, name)) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
COMMIT;
"""


def row_id(topic_id: int, offset: int) -> int:
    """The id of a message's row: its topic's id and its offset in one number."""
    return topic_id * TOPIC_ROOM + offset


def rows_of(topic_id: int) -> tuple[int, int]:
    """Between which ids a topic's rows lie, the second one excluded."""
    return row_id(topic_id, 0), row_id(topic_id + 1, 0)
