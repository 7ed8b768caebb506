"""The embedded store: a lake of Parquet files, one for each dataset, symbol and day."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import pyarrow as pa
from pydantic import ValidationError

from resources.datasets import Partition, parse_dataset, to_us
from resources.errors import Rejected, Unavailable
from resources.ledger import LedgerEntry
from resources.records import LABEL
from resources.store import writer
from resources.store.catalog import Catalog
from resources.store.disk import disk_errors
from resources.store.port import Ingest, Store, Stored
from resources.store.reader import DayRead, RangeRead, assemble, merged, plan, retrying
from resources.store.rows import labels_of, ordered_columns
from resources.store.segments import DayFiles, folder_of, partition_of, visible_day, visible_days, walk

T = TypeVar("T")
P = ParamSpec("P")


class LakeStore(Store):
    """The store in one folder, shared by the processes of one machine.

    Writers of one dataset and symbol take turns while they publish; readers wait for nobody. What a killed
    process leaves behind is ignored, and removed by the next writer.

    Args:
        root: the lake's folder, made on entering.
        patience: seconds that a call waits for other processes before it raises Unavailable.
    """

    def __init__(self, root: Path, *, patience: float = 60.0) -> None:
        self._root = root
        self._patience = patience
        self._catalog = Catalog(root / "ledger.sqlite", patience=patience)
        self._pool: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        def prepare() -> None:
            with disk_errors(self._root):
                self._root.mkdir(parents=True, exist_ok=True)
            self._catalog.open()

        await asyncio.to_thread(prepare)
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="lake")
        return self

    async def __aexit__(self, *exc: object) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)
        self._catalog.close()

    def ingest(self, partition: Partition, *, replace: bool = False) -> LakeIngest:
        """Open a bulk write: see the port."""
        blocking = writer.PartitionWriter(self._root, partition, replace=replace, patience=self._patience)
        return LakeIngest(self, blocking)

    async def upsert(self, dataset: str, rows: pa.Table) -> None:
        """Write a small batch: see the port. Partitions are written one after the other."""
        await self.run(writer.upsert, self._root, parse_dataset(dataset), rows, patience=self._patience)

    async def scan(self, partition: Partition, columns: Sequence[str]) -> AsyncIterator[pa.RecordBatch]:
        """Yield batches in key order: see the port. Holds a batch of each of the partition's files."""
        dataset = parse_dataset(partition.dataset)
        record = dataset.record
        names = ordered_columns(record, list(columns))
        needed = [name for name in record.schema.names if name in names or name == record.order]
        labels = labels_of(dataset, partition.symbol)
        folder = folder_of(self._root, partition.dataset, partition.symbol)

        def start(files: DayFiles | None) -> Any:
            return iter(()) if files is None else merged(files, needed, labels, record)

        files = await self.run(visible_day, folder, partition.day)
        tables = await self.run(retrying, folder, str(partition.day), files, start)
        while (table := await self.run(next, tables, None)) is not None:
            for batch in table.select(names).combine_chunks().to_batches():
                yield batch

    async def read(
        self,
        dataset: str,
        symbols: Sequence[str],
        start: datetime,
        end: datetime,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return a range as one table: see the port. A symbol given twice is returned once."""
        if start.tzinfo is None or end.tzinfo is None:
            raise Rejected("a range needs times with a time zone, such as datetime(2024, 8, 1, tzinfo=UTC)")
        kind = parse_dataset(dataset)
        names = ordered_columns(kind.record, None if columns is None else list(columns))
        symbols = list(dict.fromkeys(symbols))
        for symbol in symbols:
            folder_of(self._root, dataset, symbol)
        if start >= end:
            return assemble(kind.record, names, symbols, [[] for _ in symbols], kind.interval)
        work = await self.run(lambda: [plan(self._root, kind, s, start, end) for s in symbols])
        plain = tuple(n for n in names if kind.record.schema.field(n).type != LABEL)
        # A read of labels alone still has to know how many rows each symbol has.
        wanted = RangeRead(kind.record, plain or (kind.record.order,), to_us(start), to_us(end))
        parts = await self._read_all(wanted, work)
        return await self.run(assemble, kind.record, names, symbols, parts, kind.interval)

    async def stored(self, partition: Partition) -> Stored | None:
        """Return what is stored: see the port."""
        folder = folder_of(self._root, partition.dataset, partition.symbol)
        return await self.run(_stored, folder, partition)

    async def partitions(self, dataset: str | None = None, symbol: str | None = None) -> list[Stored]:
        """Return every partition: see the port. Opens only the files of days with recent appends."""

        def collect() -> list[Stored]:
            found = []
            for kind, name, folder in walk(self._root, dataset, symbol):
                for day, files in visible_days(folder).items():
                    stored = _stored(folder, partition_of(kind, name, day), files)
                    found.extend([stored] if stored else [])
            return found

        return await self.run(collect)

    async def delete(self, partition: Partition) -> None:
        """Remove a partition: see the port."""
        await self.run(writer.delete, self._root, partition, patience=self._patience)
        await self.run(self._catalog.delete_entry, partition)

    async def record(self, entries: Iterable[LedgerEntry]) -> None:
        """Write ledger entries, all or none: see the port."""

        def put() -> None:
            self._catalog.put_entries([entry for entry in entries if self._is_current(entry)])

        await self.run(put)

    def _is_current(self, entry: LedgerEntry) -> bool:
        folder = folder_of(self._root, entry.dataset, entry.symbol)
        files = visible_day(folder, entry.day)
        return files is not None and files.version == entry.version

    async def ledger(
        self,
        dataset: str | None = None,
        symbol: str | None = None,
        start: date | None = None,
        end: date | None = None,
    ) -> list[LedgerEntry]:
        """Return the entries that still hold: see the port."""

        def collect() -> list[LedgerEntry]:
            rows = self._catalog.entries(dataset, symbol, start, end)
            versions: dict[tuple[str, str], dict[str, DayFiles]] = {}
            entries = []
            for partition, version, text in rows:
                key = (partition.dataset, partition.symbol)
                if key not in versions:
                    versions[key] = visible_days(folder_of(self._root, *key), start or date.min, end or date.max)
                files = versions[key].get(str(partition.day))
                # An entry that an older StreamForge wrote in another shape is as good as none.
                with suppress(ValidationError):
                    if files is not None and files.version == version:
                        entries.append(LedgerEntry.model_validate_json(text))
            return entries

        return await self.run(collect)

    async def put_document(self, collection: str, key: str, document: Mapping[str, Any]) -> None:
        """Write one JSON document: see the port."""
        await self.run(self._catalog.put_document, collection, key, document)

    async def document(self, collection: str, key: str) -> dict[str, Any] | None:
        """Return one document, or None: see the port."""
        found = await self.run(self._catalog.documents, collection, key)
        return found[0] if found else None

    async def documents(self, collection: str) -> list[dict[str, Any]]:
        """Return a collection, sorted by key: see the port."""
        return await self.run(self._catalog.documents, collection)

    async def delete_document(self, collection: str, key: str) -> None:
        """Remove a document: see the port."""
        await self.run(self._catalog.delete_document, collection, key)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in the store's threads, its failures named. For the store's own parts."""
        if self._pool is None:
            raise Unavailable(f"the store at {self._root} is closed; open it first")

        def guarded() -> T:
            with disk_errors(self._root):
                return call(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._pool, guarded)

    async def _read_all(self, wanted: RangeRead, work: list[list[DayRead]]) -> list[list[pa.Table]]:
        flat = [item for of_symbol in work for item in of_symbol]
        size = max(1, -(-len(flat) // min(4, os.cpu_count() or 1)))
        slices = [flat[i : i + size] for i in range(0, len(flat), size)]
        tables = iter(
            t for part in await asyncio.gather(*(self.run(wanted.read, s) for s in slices)) for t in part
        )
        return [[next(tables) for _ in of_symbol] for of_symbol in work]


class LakeIngest(Ingest):
    """One bulk write into the lake. Leaving it, even by cancellation, waits until its thread has stopped."""

    def __init__(self, store: LakeStore, blocking: writer.PartitionWriter) -> None:
        self._store = store
        self._blocking = blocking

    async def __aenter__(self) -> Self:
        try:
            await self._store.run(self._blocking.open)
        except asyncio.CancelledError:
            await self._discard()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._discard()

    async def append(self, rows: pa.Table) -> None:
        """Add rows: see the port. Rows in ascending key order cost no memory."""
        await self._store.run(self._blocking.append, rows)

    async def commit(self) -> Stored:
        """Publish: see the port. When this is cancelled or raises, either all of it happened or nothing."""
        return await self._store.run(self._blocking.commit)

    async def _discard(self) -> None:
        # A thread cannot be cancelled: whoever leaves must not find it still writing.
        await asyncio.shield(asyncio.to_thread(self._blocking.discard))


def _stored(folder: Path, partition: Partition, files: DayFiles | None = None) -> Stored | None:
    files = files or visible_day(folder, partition.day)
    return retrying(folder, str(partition.day), files, lambda now: writer.stored_day(folder, partition, now))
