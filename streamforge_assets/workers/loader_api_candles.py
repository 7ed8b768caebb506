"""The candles loader: a day of candles from the archive or REST, absent ones asked for again or explained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resources.datasets import TRADES, Partition
from resources.errors import Rejected, Unavailable
from resources.ledger import Explained, Span
from resources.pages import DayReport
from streamforge_assets.market.completeness import (
    missing_candles,
    spans,
    subtract,
    without_trades,
)
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.loader import Day, load_days
from streamforge_assets.workers.runtime import Ports, Reporter, log

ASKED_ONE_BY_ONE = 8
"""Up to this many gaps, the exchange is asked for the trades of each; above, for those of the whole day."""


async def load_candles(job: Job, ports: Ports, reporter: Reporter) -> str:
    """Load the job's days of candles."""
    return await load_days(job, ports, reporter, load_candles_day)


async def load_candles_day(day: Day) -> DayReport:
    """Publish one day of candles; say which are absent because the exchange had no trade then."""
    source = "archive" if day.file else "rest"
    try:
        present = await _take(day, day.archive_tables() if day.file else _rest(day, day.partition))
    except Rejected as error:
        if source == "rest":
            raise
        log.warning("%s: the archive's file is not what it should be, REST instead: %s", day.partition, error)
        await day.restart()
        source = "rest"
        present = await _take(day, _rest(day, day.partition))
    missing = missing_candles(present, day.partition, day.job.dataset)
    if missing and source == "archive":
        repaired = await _repair(day, missing)
        if len(repaired):
            source = "archive+rest"
            missing = missing_candles(np.append(present, repaired), day.partition, day.job.dataset)
    return DayReport(
        source=source,
        source_checksum=day.file.checksum if day.file and source.startswith("archive") else "",
        bytes=day.file.bytes if day.file else 0,
        explained=tuple(await explain(day, missing)) if missing else (),
    )


async def explain(day: Day, missing: Sequence[Span]) -> list[Explained]:
    """Explain absent candles by the absence of trades: stored ones, the exchange's, or the archive's."""
    step = int(day.job.dataset.step.total_seconds() * 1000)
    partition = Partition(TRADES.name, day.partition.symbol, day.partition.day)
    stored = await day.ports.store.ledger(TRADES.name, partition.symbol, partition.day, day.partition.end.date())
    if stored and stored[0].complete and not stored[0].accepted_by:
        ids, times = await _scan(day.ports.store.scan(partition, ["trade_id", "time"]))
        return without_trades(missing, ids, times, step, "stored trades")
    explained: list[Explained] = []
    if len(missing) <= ASKED_ONE_BY_ONE:
        explained = await _ask_trades(day, missing, step)
    left = subtract(missing, explained, step)
    return explained + (await _read_archive_trades(day, left, step) if left else [])


async def _take(day: Day, tables: AsyncIterator[pa.Table]) -> NDArray[np.int64]:
    opened = [np.empty(0, np.int64)]
    async for table in tables:
        opened.append(_milliseconds(table["open_time"]))
        await day.publish(table)
    return np.concatenate(opened)


async def _rest(day: Day, partition: Partition) -> AsyncIterator[pa.Table]:
    try:
        async for table in day.ports.exchange.candles(
            day.job.dataset, partition.symbol, partition.start, partition.end
        ):
            yield table
    except Unavailable as error:
        why = day.file_problem or "the archive has no file for that day"
        raise Rejected(f"{why}, and REST does not answer: {error}") from error


async def _repair(day: Day, missing: Sequence[Span]) -> NDArray[np.int64]:
    """Ask REST for the absent candles, all gaps in one sweep of pages; open times (ms) of those that came."""
    step = int(day.job.dataset.step.total_seconds() * 1000)
    start, end = _moment(missing[0].first), _moment(missing[-1].last + step)
    wanted = pa.array(_positions(missing, step))
    repaired = [np.empty(0, np.int64)]
    try:
        async for table in day.ports.exchange.candles(day.job.dataset, day.partition.symbol, start, end):
            opened = pa.array(_milliseconds(table["open_time"]))
            rows = table.filter(pa.compute.is_in(opened, value_set=wanted))
            repaired.append(_milliseconds(rows["open_time"]))
            await day.publish(rows)
    except Unavailable:
        return np.concatenate(repaired)
    return np.concatenate(repaired)


async def _ask_trades(day: Day, missing: Sequence[Span], step: int) -> list[Explained]:
    explained: list[Explained] = []
    try:
        for run in missing:
            trades = day.ports.exchange.trades(day.partition.symbol, _moment(run.first), _moment(run.last + step))
            _, times = await _scan(trades)
            slots = np.arange(run.first, run.last + 1, step, dtype=np.int64)
            quiet = slots[np.searchsorted(times, slots + step) == np.searchsorted(times, slots)]
            explained += [
                Explained(**span.model_dump(), reason="no trades", evidence="the exchange has no trade in it")
                for span in spans(quiet, step)
            ]
    except Unavailable:
        return explained
    return explained


async def _read_archive_trades(day: Day, missing: Sequence[Span], step: int) -> list[Explained]:
    try:
        async with day.ports.exchange.archive_file(TRADES, day.partition.symbol, day.partition.day) as file:
            if file is None:
                return []
            other = Day(day.partition, file, "", day.job, day.ports)
            ids, times = await _scan(other.archive_tables())
            return without_trades(missing, ids, times, step, "archived trades")
    except (Rejected, Unavailable) as error:
        log.warning("%s: its absent candles cannot be explained: %s", day.partition, error)
        return []


async def _scan(
    tables: AsyncIterator[pa.Table | pa.RecordBatch],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and times (ms) of trades that stream by, ascending by id, each id once."""
    ids, times = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    async for table in tables:
        ids.append(np.asarray(table.column("trade_id").to_numpy()))
        times.append(_milliseconds(table.column("time")))
    unique, at = np.unique(np.concatenate(ids), return_index=True)
    return unique, np.concatenate(times)[at]


def _milliseconds(column: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    return np.asarray(column.cast(pa.int64()).to_numpy()) // 1000


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _positions(runs: Sequence[Span], step: int) -> NDArray[np.int64]:
    return np.concatenate([np.arange(run.first, run.last + 1, step, dtype=np.int64) for run in runs])


if __name__ == "__main__":
    from streamforge_assets.workers.main import main

    main(load_candles)
