"""The lake's disk: temporary files, durable renames, locks, and what their failures are called."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path

import filelock
import pyarrow as pa

from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.store.segments import TEMPORARY, list_days, publishing

ORPHAN_AGE = 60.0
"""Seconds after which a temporary file that no process holds is taken for a dead writer's."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn the failures of files under `where` into Unavailable or Rejected."""
    try:
        yield
    except StreamForgeError:
        raise
    except OSError as error:
        raise _named(error, where) from error
    except pa.ArrowInvalid as error:
        raise _damaged(where, error) from error


def _named(error: OSError, where: Path) -> StreamForgeError:
    path = error.filename or where
    if error.errno in _NO_ROOM:
        return Unavailable(f"the disk of {where} is full; free some room and repeat, what was stored is kept")
    if error.errno in _NOT_OURS:
        return Rejected(
            f"{path} cannot be written or read ({error.strerror}); set STREAMFORGE_HOME to a folder you own"
        )
    if error.errno is None:
        return _damaged(where, error)
    return Unavailable(f"{path} cannot be used now ({error.strerror or error}); try again")


def _damaged(where: Path, error: Exception) -> Rejected:
    return Rejected(f"a file under {where} is damaged ({error}); delete the partition and collect it again")


@contextmanager
def writing(folder: Path, patience: float) -> Iterator[None]:
    """Be the only writer of `folder`, which is made if need be.

    Raises Unavailable when another process keeps it for more than `patience` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=patience, poll_interval=0.005)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise Unavailable(f"another process has been writing to {folder} for {patience:g} s; try again") from error
    try:
        yield
    finally:
        lock.release()


class TemporaryFile:
    """A new file beside its destination, held so that nobody takes it for a dead writer's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f".{secrets.token_hex(8)}{TEMPORARY}"
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def sync(self) -> None:
        """Have the contents on the disk itself."""
        os.fsync(self._descriptor)

    def discard(self) -> None:
        """Remove the file, unless it was renamed. Harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self.path.unlink(missing_ok=True)


def publish(temporary: TemporaryFile, name: str, day: date) -> Path:
    """Rename a synced temporary file to `name`, durably, and remove what it makes obsolete of `day`.

    The caller is the folder's only writer.
    """
    folder = temporary.path.parent
    target = folder / name
    with publishing(folder) as descriptor:
        temporary.path.rename(target)
        os.fsync(descriptor)
    sweep(folder, day)
    return target


def sweep(folder: Path, day: date) -> None:
    """Remove obsolete files of `day`, and the temporary files of dead writers.

    Failing is harmless: readers ignore what is left, the next writer tries again.
    """
    with suppress(OSError, Unavailable):
        _, dead = list_days(folder, day, day + timedelta(days=1)).get(str(day), (None, []))
        if dead:
            with publishing(folder):
                for segment in dead:
                    Path(segment.path).unlink(missing_ok=True)
        for orphan in folder.glob(f".*{TEMPORARY}"):
            _remove_orphan(orphan)


def _remove_orphan(path: Path) -> None:
    with suppress(FileNotFoundError, BlockingIOError):
        if time.time() - path.stat().st_mtime < ORPHAN_AGE:
            return
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)
