"""Artifacts in a local folder: the key is the path, so that people can look at them too."""

from __future__ import annotations

import asyncio
import builtins
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from resources.artifacts.port import Artifacts
from resources.artifacts.swap import swap
from resources.errors import Rejected, StreamForgeError, Unavailable

_SUCCESS: Final = "_SUCCESS"
_STAGING: Final = ".staging"
_LOCK: Final = ".lock"
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED: Final = {errno.EACCES, errno.EPERM, errno.EROFS}


class LocalArtifacts(Artifacts):
    """Artifacts below the folder `root`, for any number of processes on one machine.

    What `put` and `publish` returned from is on the disk, and survives a loss of power. A published prefix
    changes from its old files to its new ones in one step, for readers here as for programs that look at the
    folder; only where the file system cannot exchange two folders (some network mounts) is it absent for an
    instant. A crash leaves the old or the new files; its remains are hidden, and removed at the next opening.

    A call that is cancelled still happens, whole or not at all. As in any folder, a key cannot be both a file
    and the prefix of other keys: the later one is Rejected. Parts of a key must not begin with a dot.

    Args:
        root: the folder, made as needed.
        patience: seconds to wait for another process's switch before Unavailable is raised.
    """

    def __init__(self, root: Path, *, patience: float = 10.0) -> None:
        self._root = root.absolute()
        self._staging = self._root / _STAGING
        self._patience = patience

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close. Nothing is held between calls, so there is nothing to do."""

    async def put(self, key: str, content: bytes | Path) -> None:
        """Store one file under `key`, replacing it if there. On the disk on return."""
        path = self._path(key)
        await asyncio.to_thread(self._put, path, key, content)

    async def get(self, key: str) -> bytes:
        """Return one file. Raises Rejected if there is none."""
        path = self._path(key)
        return await asyncio.to_thread(self._get, path, key)

    async def list(self, prefix: str = "") -> builtins.list[str]:
        """Return the keys at or below `prefix`, sorted, as they were at one moment."""
        path = self._path(prefix) if prefix else self._root
        return await asyncio.to_thread(self._list, path)

    async def publish(self, prefix: str, files: Mapping[str, bytes | Path]) -> None:
        """Store all `files` and the marker `_SUCCESS` in one step, replacing what `prefix` held."""
        path = self._path(prefix)
        for name in files:
            self._path(name)
            if name == _SUCCESS:
                raise Rejected(f"{prefix}/{_SUCCESS} is the marker that publishing writes; choose another name")
        await asyncio.to_thread(self._publish, path, prefix, dict(files))

    async def delete(self, prefix: str) -> None:
        """Remove the file or the whole prefix, in one step."""
        path = self._path(prefix)
        await asyncio.to_thread(self._delete, path)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(
            part and not part.startswith(".") and part.isprintable() and "\\" not in part for part in parts
        ):
            raise Rejected(
                f"{key!r} is not a key: use a relative path with forward slashes whose parts are not empty and do"
                " not begin with a dot, such as models/2024-08-01/model.pt"
            )
        if any(len(os.fsencode(part)) > 255 for part in parts):
            raise Rejected(f"the key {key[:60]}... has a part of more than 255 bytes; shorten it")
        return self._root.joinpath(*parts)

    def _open(self) -> None:
        with self._translated("opened"):
            self._staging.mkdir(parents=True, exist_ok=True)
            with self._locked(exclusive=True):
                for stage in self._staging.iterdir():
                    _remove_if_abandoned(stage)

    def _put(self, path: Path, key: str, content: bytes | Path) -> None:
        with self._translated(key), self._stage() as stage:
            _write(stage / "file", content)
            with self._locked(exclusive=False):
                _make_folder(path.parent)
                (stage / "file").replace(path)
                _sync(path.parent)

    def _get(self, path: Path, key: str) -> bytes:
        with self._translated(key), self._locked(exclusive=False):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise Rejected(f"there is no artifact {key} in {self._root}") from error

    def _list(self, path: Path) -> builtins.list[str]:
        with self._translated("listed"), self._locked(exclusive=False):
            found = [path] if path.is_file() else _files_below(path)
            return sorted(file.relative_to(self._root).as_posix() for file in found)

    def _publish(self, path: Path, prefix: str, files: Mapping[str, bytes | Path]) -> None:
        with self._translated(prefix), self._stage() as stage:
            new = stage / "new"
            new.mkdir()
            for name, content in files.items():
                target = new.joinpath(*name.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(target, content)
            _write(new / _SUCCESS, b"")
            for folder, _, _ in os.walk(new):
                _sync(Path(folder))
            with self._locked(exclusive=True):
                _make_folder(path.parent)
                self._switch(new, path, stage / "old")
                _sync(path.parent)

    def _switch(self, new: Path, path: Path, old: Path) -> None:
        if path.is_file():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file", str(path))
        if not path.exists():
            new.rename(path)
        elif not swap(new, path):
            path.rename(old)
            try:
                new.rename(path)
            except OSError:
                old.rename(path)
                raise

    def _delete(self, path: Path) -> None:
        with self._translated("deleted"), self._stage() as stage, self._locked(exclusive=True):
            try:
                path.rename(stage / "old")
            except (FileNotFoundError, NotADirectoryError):
                return
            _sync(path.parent)
            for folder in path.parents:
                if folder == self._root or any(folder.iterdir()):
                    break
                folder.rmdir()

    @contextmanager
    def _stage(self) -> Iterator[Path]:
        """A hidden folder of our own, whose lock says that we live; removed at the end."""
        stage = self._staging / uuid.uuid4().hex
        with self._locked(exclusive=False):
            stage.mkdir(parents=True)
            held = os.open(stage, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            os.close(held)

    @contextmanager
    def _locked(self, *, exclusive: bool) -> Iterator[None]:
        """Shared: the folders stay in place. Exclusive: nobody else looks or writes."""
        handle = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            deadline = time.monotonic() + self._patience
            while True:
                try:
                    fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Unavailable(
                            f"the artifacts in {self._root} have been locked by another process for"
                            f" {self._patience:g} s; repeat when that has ended"
                        ) from None
                time.sleep(0.002)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._explained(what, error) from error

    def _explained(self, what: str, error: OSError) -> StreamForgeError:
        reason = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            return Unavailable(
                f"there is no room on the disk of the artifacts, {self._root}; free some and repeat"
            )
        if error.errno in _NOT_ALLOWED or not self._staging.is_dir():
            return Rejected(
                f"the artifacts' folder {self._root} cannot be written: {reason}; make it writable, or set"
                " STREAMFORGE_HOME to a folder that is, such as /data/sf"
            )
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
            return Rejected(
                f"{what} cannot be a key in {self._root}: {reason}; a key is either a file or a prefix"
            )
        return Unavailable(f"the artifacts in {self._root} cannot be used now ({what}): {reason}")


def _write(target: Path, content: bytes | Path) -> None:
    with target.open("xb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            try:
                source = content.open("rb")
            except OSError as error:
                raise Rejected(
                    f"{content} cannot be stored: {error.strerror}; it must be a readable file"
                ) from error
            with source:
                shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Like mkdir(parents=True), but on the disk."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _remove_if_abandoned(stage: Path) -> None:
    with suppress(OSError):
        handle = os.open(stage, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(stage, ignore_errors=True)
        finally:
            os.close(handle)
