"""What goes wrong with the embedded bus's file, as sentences: what, where, and what to do."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resources.errors import Rejected, StreamForgeError, Unavailable

LEAST_ROOM: Final = 16_384
"""Bytes without which a disk counts as full: one page of the file."""


@dataclass(frozen=True, slots=True)
class LogErrors:
    """The errors of the file `path`, whose writers wait for each other for `patience` seconds."""

    path: Path
    patience: float

    def of_system(self, error: OSError) -> StreamForgeError:
        """What an error of the file system means for whoever uses the bus."""
        if error.errno == errno.ENOSPC:
            return self._no_room()
        return self._unusable(error.strerror or str(error))

    def of_sqlite(self, error: sqlite3.Error) -> StreamForgeError:
        """What an error of SQLite means for whoever uses the bus."""
        match code_of(error):
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self.locked()
            case code if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._disk_is_full()):
                return self._no_room()
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                return self._unusable(str(error))
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                return Rejected(
                    f"the event bus's file {self.path} is damaged ({error}); move it away and collect again"
                )
        return Unavailable(f"the event bus's file {self.path} cannot be used now: {error}")

    def _disk_is_full(self) -> bool:
        try:
            return shutil.disk_usage(self.path.parent).free < LEAST_ROOM
        except OSError:
            return False

    def _no_room(self) -> Unavailable:
        return Unavailable(f"there is no room on the disk of the event bus, {self.path}; free some and repeat")

    def locked(self) -> Unavailable:
        """Another writer did not give way for as long as patience lasts."""
        return Unavailable(
            f"the event bus's file {self.path} has been locked by another writer for {self.patience:g} s; repeat"
            " when that has ended"
        )

    def _unusable(self, reason: str) -> StreamForgeError:
        folder = self.path.parent
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and os.access(self.path, os.W_OK):
            return Unavailable(f"the event bus's file {self.path} cannot be used now: {reason}")
        return Rejected(
            f"the event bus cannot write its file {self.path}: {reason}; make the folder writable, or set"
            " STREAMFORGE_HOME to one that is, such as /data/sf"
        )


def code_of(error: sqlite3.Error) -> int:
    """The kind of an error, without where it happened."""
    # The low byte is the kind; the rest says where it happened. Errors of the module itself carry no code.
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF
