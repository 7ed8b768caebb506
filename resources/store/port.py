"""The store: market records by key, with the completeness ledger and small documents beside them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol, Self

import pyarrow as pa

from resources.datasets import Partition
from resources.ledger import LedgerEntry


@dataclass(frozen=True, slots=True)
class Stored:
    """A partition that holds rows. `version` changes whenever its rows do."""

    partition: Partition
    rows: int
    bytes: int
    version: str


class Ingest(Protocol):
    """Rows on their way into one partition. Used by one task at a time."""

    @abstractmethod
    async def append(self, rows: pa.Table) -> None:
        """Add rows, in any order; of rows with one key the last one added counts."""

    @abstractmethod
    async def commit(self) -> Stored:
        """Make everything appended visible at once, and durable. Nothing may be appended afterwards."""


class Store(Protocol):
    """Records by key. Every write is an upsert: a replay changes nothing, a later row replaces an earlier.

    Several processes may read and write at once. A reader sees a partition as it was before or after a
    commit, never between. Raises Unavailable when the store cannot be reached, is locked for too long or has
    no room (what was stored before stays as it was); Rejected when rows do not have the dataset's columns
    or lie outside their partition.
    """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None:
        """Close. Closing twice is harmless."""

    @abstractmethod
    def ingest(self, partition: Partition, *, replace: bool = False) -> AbstractAsyncContextManager[Ingest]:
        """Open a bulk write into `partition`. Memory stays bounded however many rows are appended in order.

        Leaving without `commit` discards what was appended. With `replace` the committed rows become the whole
        partition; without, they join the rows that are stored.
        """

    @abstractmethod
    async def upsert(self, dataset: str, rows: pa.Table) -> None:
        """Write a small batch, of any symbols and days, durably. Many of them are compacted by themselves.

        A row whose version (`Record.version`) is lower than that of the row with its key, stored or in the batch,
        is older than that one, came late, and is passed over.
        """

    @abstractmethod
    def scan(self, partition: Partition, columns: Sequence[str]) -> AsyncIterator[pa.RecordBatch]:
        """Yield the partition's rows in key order, in batches of bounded size."""

    @abstractmethod
    async def read(
        self,
        dataset: str,
        symbols: Sequence[str],
        start: datetime,
        end: datetime,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the rows of `symbols` whose time lies in [start, end), by symbol (as given), then key order.

        Touches no file or document outside the range. Columns come in the record's order.
        """

    @abstractmethod
    async def stored(self, partition: Partition) -> Stored | None:
        """Return what is stored of `partition`, or None where it holds no data at all."""

    @abstractmethod
    async def partitions(self, dataset: str | None = None, symbol: str | None = None) -> list[Stored]:
        """Return every partition that was ever committed and not deleted, sorted."""

    @abstractmethod
    async def delete(self, partition: Partition) -> None:
        """Remove a partition's rows and its ledger entry. Deleting an absent one is harmless."""

    @abstractmethod
    async def record(self, entries: Iterable[LedgerEntry]) -> None:
        """Write ledger entries, replacing those of the same partitions.

        An entry about data that are no longer stored is dropped: it must not replace the one about those that are.
        """

    @abstractmethod
    async def ledger(
        self,
        dataset: str | None = None,
        symbol: str | None = None,
        start: date | None = None,
        end: date | None = None,
    ) -> list[LedgerEntry]:
        """Return the entries whose day lies in [start, end), sorted by partition.

        An entry whose version is not that of the stored data is left out: it no longer tells the truth.
        """

    @abstractmethod
    async def put_document(self, collection: str, key: str, document: Mapping[str, Any]) -> None:
        """Write one JSON document, replacing the one of the same key."""

    @abstractmethod
    async def document(self, collection: str, key: str) -> dict[str, Any] | None:
        """Return one document, or None."""

    @abstractmethod
    async def documents(self, collection: str) -> list[dict[str, Any]]:
        """Return every document of a collection, sorted by key."""

    @abstractmethod
    async def delete_document(self, collection: str, key: str) -> None:
        """Remove a document. Removing an absent one is harmless."""
