"""The examination of a stored partition: its ledger entry, from its rows and the loader's word on its holes."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from resources.datasets import Dataset, Partition, parse_dataset
from resources.ledger import LedgerEntry, Span
from resources.pages import DayReport
from resources.store.port import Store, Stored
from streamforge_assets.market.completeness import IdScan, bounded, grid, missing_candles, subtract


async def assess(store: Store, stored: Stored, report: DayReport) -> LedgerEntry:
    """Compute a partition's ledger entry from its stored rows and what the loader knows about its holes."""
    partition = stored.partition
    dataset = parse_dataset(partition.dataset)
    scan = _assess_candles if dataset.interval else _assess_trades
    entry = await scan(store, partition, dataset, report)
    return entry.model_copy(
        update={
            "source": report.source,
            "source_checksum": report.source_checksum,
            "bytes": stored.bytes,
            "seconds": report.seconds,
            "start_proof": report.start_proof,
            "end_proof": report.end_proof,
            "version": stored.version,
        }
    )


async def _assess_trades(store: Store, partition: Partition, _: Dataset, report: DayReport) -> LedgerEntry:
    ids = IdScan()
    first = last = None
    async for batch in store.scan(partition, ["trade_id", "time"]):
        if batch.num_rows:
            ids.feed(batch.column("trade_id").to_numpy())
            first = first or batch.column("time")[0].as_py()
            last = batch.column("time")[-1].as_py()
    missing = [span for span in (*ids.holes, *report.edge_missing) if span.count]
    return LedgerEntry(
        **_identity(partition),
        rows=ids.rows,
        expected=ids.rows + sum(span.count for span in missing),
        missing=bounded(sorted(missing, key=lambda span: span.first)),
        first_time=first,
        last_time=last,
        first_position=ids.first,
        last_position=ids.last,
    )


async def _assess_candles(store: Store, partition: Partition, dataset: Dataset, report: DayReport) -> LedgerEntry:
    batches = [batch async for batch in store.scan(partition, ["open_time"])]
    table = pa.Table.from_batches(batches) if batches else None
    times = table["open_time"].cast(pa.int64()).to_numpy() // 1000 if table else np.empty(0, np.int64)
    step = int(dataset.step.total_seconds() * 1000)
    gaps: list[Span] = missing_candles(times, partition, dataset)
    missing = subtract(gaps, report.explained, step)
    explained = [run for run in report.explained if len(subtract([run], gaps, step)) == 0]
    return LedgerEntry(
        **_identity(partition),
        rows=len(times),
        expected=len(grid(partition, dataset)),
        missing=bounded(missing),
        explained=bounded(explained),
        first_time=table["open_time"][0].as_py() if table and len(times) else None,
        last_time=table["open_time"][-1].as_py() if table and len(times) else None,
        first_position=int(times[0]) if len(times) else None,
        last_position=int(times[-1]) if len(times) else None,
    )


def _identity(partition: Partition) -> dict[str, object]:
    return {
        "dataset": partition.dataset,
        "symbol": partition.symbol,
        "day": partition.day,
        "written_at": datetime.now(UTC),
    }
