"""The exchange as the loaders see it: an archive of whole days, and a REST API for the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Protocol, Self

import pyarrow as pa

from resources.datasets import Dataset


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A day of one dataset, downloaded and verified. `checksum` is the SHA-256 that the archive publishes."""

    dataset: Dataset
    symbol: str
    day: date
    path: Path
    checksum: str
    bytes: int

    def tables(self) -> Iterator[pa.Table]:
        """Parse the file, in tables of bounded size, in the file's own order. Blocks: call it in a thread.

        Raises Rejected, naming file and row, for anything that is not a valid record of this symbol and day.
        """
        from resources.exchange.parse import read_archive  # parse knows ArchiveFile

        return read_archive(self)


class Exchange(Protocol):
    """What an exchange can be asked for.

    Every call waits for request weight, retries what may pass, and honours bans, so a caller just calls.
    Raises Unavailable when the exchange cannot be reached or stays broken after the retries (RateLimited while
    a ban lasts longer than waiting is worth), Rejected when it refuses the request or answers with garbage.
    """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None:
        """Close connections. Closing twice is harmless."""

    @abstractmethod
    async def symbols(self) -> list[str]:
        """Return the symbols that the REST API trades, sorted."""

    @abstractmethod
    async def now(self) -> datetime:
        """Return the exchange's own time."""

    @abstractmethod
    async def first_trade(self, symbol: str) -> datetime | None:
        """Return when `symbol` first traded; None if it never has. Rejected for an unknown symbol."""

    @abstractmethod
    def archive_file(
        self, dataset: Dataset, symbol: str, day: date
    ) -> AbstractAsyncContextManager[ArchiveFile | None]:
        """Download and verify a day's file; None where the archive has none. The file goes on leaving.

        An interrupted download resumes. Raises Rejected when the file is broken and stays so after the retries.
        """

    @abstractmethod
    async def archive_checksum(self, dataset: Dataset, symbol: str, day: date) -> str | None:
        """Return the SHA-256 that the archive publishes for a day now; None where it has no such file."""

    @abstractmethod
    def candles(self, dataset: Dataset, symbol: str, start: datetime, end: datetime) -> AsyncIterator[pa.Table]:
        """Yield the candles that open in [start, end), page by page, ascending, from the REST API.

        A candle that has not closed yet, by the exchange's clock, is left out.
        """

    @abstractmethod
    def trades(self, symbol: str, start: datetime, end: datetime) -> AsyncIterator[pa.Table]:
        """Yield the aggregate trades of [start, end), page by page, ascending, from the REST API.

        The first page is found by time and then walked back by id, so that the first trade is not missed.
        """

    @abstractmethod
    def trades_by_id(self, symbol: str, first: int, last: int) -> AsyncIterator[pa.Table]:
        """Yield the aggregate trades with ids in [first, last], page by page, ascending.

        Ids that the exchange does not have are simply absent.
        """
