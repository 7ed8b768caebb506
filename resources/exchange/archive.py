"""The archive of whole days: a tree of zip files, each with its SHA-256 beside it, over HTTP or in a folder.

    data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-08-01.zip
    data/spot/daily/klines/BTCUSDT/5m/BTCUSDT-5m-2024-08-01.zip        and the same name + `.CHECKSUM`

A file may be published again with other content and another checksum. Source: binance-public-data `README.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock, Timeout

from resources.datasets import Dataset
from resources.errors import Rejected
from resources.exchange.http import Http, Passing, check_status
from resources.exchange.port import ArchiveFile
from resources.exchange.state import disk_error

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("streamforge.exchange")

_CHUNK = 1 << 18
_DOWNLOADS = 3  # of one file whose content does not fit its checksum
_ROLE = "the archive"


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def archive_path(dataset: Dataset, symbol: str, day: date) -> str:
    """Where a day's zip lies in the archive, relative to its base. Raises Rejected for an impossible symbol."""
    if not re.fullmatch(r"[^\W_a-z][\w.-]{0,39}", symbol):
        raise Rejected(f"{symbol!r} is not a symbol; symbols look like BTCUSDT")
    if dataset.interval is None:
        return f"data/spot/daily/aggTrades/{symbol}/{symbol}-aggTrades-{day}.zip"
    return f"data/spot/daily/klines/{symbol}/{dataset.interval}/{symbol}-{dataset.interval}-{day}.zip"


class Archive:
    """Days from the archive, each verified before anybody sees it.

    Args:
        http: the transport; not used for a `file://` base.
        base: base URL, http(s) or file, without a final slash.
        downloads: folder for files under way; an interrupted download is left there and resumed.
    """

    def __init__(self, http: Http, base: str, downloads: Path) -> None:
        self._http, self._base, self._downloads = http, base, downloads
        self._folder = Path(unquote(urlsplit(base).path)) if base.startswith("file:") else None

    async def checksum(self, dataset: Dataset, symbol: str, day: date) -> str | None:
        """Return the SHA-256 that is published for a day now; None where the archive has no such day.

        A zip without its checksum cannot be trusted: it counts as absent, with a warning.
        """
        path = archive_path(dataset, symbol, day)
        text = await self._checksum_text(path)
        if text is not None:
            return text
        if await self._exists(path):
            log.warning("the archive has %s without a checksum; it is not used", path)
        return None

    @asynccontextmanager
    async def file(self, dataset: Dataset, symbol: str, day: date) -> AsyncIterator[ArchiveFile | None]:
        """Give a day's verified file; None where the archive has none. A downloaded file goes on leaving.

        Raises:
            Rejected: the content does not fit the published checksum, after several downloads.
            Unavailable: the archive cannot be reached, or the disk is full.
        """
        checksum = await self.checksum(dataset, symbol, day)
        if checksum is None:
            yield None
            return
        path = archive_path(dataset, symbol, day)
        if self._folder is not None:
            yield await asyncio.to_thread(self._verified_in_place, dataset, symbol, day, checksum)
            return
        with self._workplace(path) as place:
            try:
                fetched = await self._verified_download(path, checksum, place)
                size = place.stat().st_size if fetched else 0
            except OSError as error:
                raise disk_error(self._downloads, error) from error
            if fetched is None:
                log.warning("the archive has a checksum for %s, but not the file", path)
                yield None
                return
            try:
                yield ArchiveFile(dataset, symbol, day, place, fetched, size)
            finally:
                place.unlink(missing_ok=True)

    # --- checksums -----------------------------------------------------------------------------------------

    async def _checksum_text(self, path: str) -> str | None:
        name = f"{path}.CHECKSUM"
        if self._folder is not None:
            if not self._folder.is_dir():
                raise Rejected(
                    f"there is no archive folder {self._folder}; STREAMFORGE_ARCHIVE_URL must name one, "
                    "such as file:///data/binance-archive"
                )
            try:
                return _read_checksum((self._folder / name).read_bytes(), path)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise Rejected(f"{self._folder / name} cannot be read: {error.strerror}") from error
        url = self._url(name)

        async def once() -> str | None:
            async with self._http.get(url) as response:
                if response.status == 404:
                    return None
                check_status(response, url)
                body = await response.read()
            try:
                return _read_checksum(body, path)
            except Rejected as error:
                raise Passing(str(error), garbage=True) from error

        return await self._http.repeat(_ROLE, url, once)

    async def _exists(self, path: str) -> bool:
        if self._folder is not None:
            return (self._folder / path).is_file()
        url = self._url(path)

        async def once() -> bool:
            async with self._http.get(url, headers={"Range": "bytes=0-0"}) as response:
                if response.status != 404:
                    check_status(response, url)
                return response.status != 404

        return await self._http.repeat(_ROLE, url, once)

    def _url(self, path: str) -> str:
        return f"{self._base}/{quote(path)}"

    # --- a folder ------------------------------------------------------------------------------------------

    def _verified_in_place(self, dataset: Dataset, symbol: str, day: date, checksum: str) -> ArchiveFile | None:
        assert self._folder is not None  # noqa: S101 - the caller looked
        path = self._folder / archive_path(dataset, symbol, day)
        try:
            digest = hashlib.sha256()
            _hash_file(path, digest)
            size = path.stat().st_size
        except FileNotFoundError:
            log.warning("the archive has a checksum for %s, but not the file", path)
            return None
        except OSError as error:
            raise Rejected(f"{path} cannot be read: {error.strerror}") from error
        if digest.hexdigest() != checksum:
            raise Rejected(f"{path} is broken: its SHA-256 is {digest.hexdigest()}, its .CHECKSUM says {checksum}")
        return ArchiveFile(dataset, symbol, day, path, checksum, size)

    # --- downloads -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _workplace(self, path: str) -> Iterator[Path]:
        """Give the path for a download that nobody else uses, and keep it while the block runs.

        Its name is always the same, so that the next attempt can resume; who finds it taken uses one of its own.
        """
        place = self._downloads / Path(path).name
        try:
            self._downloads.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{place}.lock", timeout=0, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                place = place.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.zip")
        except OSError as error:
            raise disk_error(self._downloads, error) from error
        try:
            yield place
        finally:
            if lock.is_locked:
                Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()

    async def _verified_download(self, path: str, checksum: str, place: Path) -> str | None:
        """Download until the content fits the checksum that is published; None if the file is gone."""
        found = ""
        for _ in range(_DOWNLOADS):
            part, url = _claim_part(place, checksum), self._url(path)
            digest = await self._http.repeat(_ROLE, url, partial(self._fetch, url, part, checksum))
            if digest is None:
                return None
            if digest == checksum:
                part.replace(place)
                _etag_file(part).unlink(missing_ok=True)
                return checksum
            found = digest
            _discard(part)
            again = await self._checksum_text(path)
            if again is None:
                return None
            checksum = again
        raise Rejected(
            f"{path} is broken in the archive: {_DOWNLOADS} downloads do not fit their published SHA-256 "
            f"(last {found}, published {checksum})"
        )

    async def _fetch(self, url: str, part: Path, checksum: str) -> str | None:
        """Complete `part`, from where it ends, and return its SHA-256; None if there is no such file."""
        digest, start = hashlib.sha256(), 0
        with contextlib.suppress(FileNotFoundError):
            start = await asyncio.to_thread(_hash_file, part, digest)
        if start and digest.hexdigest() == checksum:
            return checksum
        async with self._http.get(url, headers=_resume_headers(part, start)) as response:
            if response.status == 404:
                return None
            foreign = response.status == 206 and not _continues(response, start)
            if foreign or response.status == 416:  # 416: what we hold is longer than the file
                _discard(part)
                raise Passing("the answer is not the rest of the file that was begun")
            check_status(response, url)
            if response.status != 206:
                digest, start = hashlib.sha256(), 0
            if etag := response.headers.get("ETag"):
                _etag_file(part).write_text(etag)
            with part.open("r+b" if start else "wb") as out:
                out.seek(start)
                async for chunk in response.content.iter_chunked(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
        return digest.hexdigest()


def _claim_part(place: Path, checksum: str) -> Path:
    """The file that a download of this content goes to, with what is there already; other contents go."""
    part = place.with_name(f"{place.name}.{checksum[:16]}.part")
    for old in place.parent.glob(f"{place.name}.*.part"):
        if old != part:
            _discard(old)
    if place.exists():
        place.replace(part)  # downloaded by a process that died before it used it
    return part


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def _resume_headers(part: Path, start: int) -> dict[str, str]:
    whole = {"Accept-Encoding": "identity"}  # a range of a compressed answer would be another range
    if not start:
        return whole
    etag = _etag_file(part)
    value = etag.read_text() if etag.exists() else ""
    strong = {"If-Range": value} if value.startswith('"') else {}
    return {**whole, "Range": f"bytes={start}-", **strong}


def _continues(response: aiohttp.ClientResponse, start: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _etag_file(part: Path) -> Path:
    return part.with_suffix(".etag")


def _hash_file(path: Path, digest: _Hash) -> int:
    """Feed a file to the hash; return its length in bytes."""
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return size


def _read_checksum(body: bytes, path: str) -> str:
    """Parse `<64 hex digits>  <file name>`."""
    words = body.decode("ascii", errors="replace").split()
    name = Path(path).name
    if len(words) != 2 or not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]) or words[1].lstrip("*") != name:
        raise Rejected(f"{path}.CHECKSUM is not '<SHA-256>  {name}' but {body[:100]!r}")
    return words[0].lower()
