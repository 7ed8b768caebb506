"""Large values of the embedded bus, beside its database: one append-only file per topic.

SQLite would write each of them twice, into its log and into its pages, and walk its pages once more to delete it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LARGE: Final = 65_536
"""Bytes from which a value goes to a file."""


@dataclass(frozen=True, slots=True)
class ValuePlace:
    """Where a value lies in its topic's file. `checksum` is its CRC-32: losing power can lose what a file held."""

    position: int
    size: int
    checksum: int


class ValueFiles:
    """The files of one bus in `folder`, named by their topic's id, which is never given again.

    Whoever appends or drops holds the database's write lock, so a file has one writer at a time. Bytes that a
    failed transaction leaves at a file's end are never pointed at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def appending(self, topic_id: int) -> Iterator[ValueAppender]:
        """Give what appends to a topic's file; the file is only made when there is a value for it."""
        appender = ValueAppender(self._folder / str(topic_id))
        try:
            yield appender
        finally:
            appender.close()

    @contextmanager
    def reading(self, topic_id: int) -> Iterator[ValueReader]:
        """Give what reads from a topic's file."""
        reader = ValueReader(self._folder / str(topic_id))
        try:
            yield reader
        finally:
            reader.close()

    def drop(self, topic_id: int) -> None:
        """Remove a topic's file. Harmless when repeated."""
        (self._folder / str(topic_id)).unlink(missing_ok=True)


class ValueAppender:
    """Appends to one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._end = 0

    def append(self, value: bytes) -> ValuePlace:
        """Write a value to the end of the file. Raises OSError when there is no room."""
        if self._file < 0:
            self._path.parent.mkdir(exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._end = os.fstat(self._file).st_size
        place = ValuePlace(self._end, len(value), zlib.crc32(value))
        rest = memoryview(value)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._end += place.size
        return place

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class ValueReader:
    """Reads from one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def read(self, place: ValuePlace) -> bytes | None:
        """The value at `place`; None when it was lost. Raises FileNotFoundError without a file."""
        if self._file < 0:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        value = os.pread(self._file, place.size, place.position)
        return value if len(value) == place.size and zlib.crc32(value) == place.checksum else None

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
