"""The trades loader: a day of aggregate trades from the archive or REST, its holes repaired, its ends proven."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resources.datasets import candles, to_us
from resources.errors import Rejected, Unavailable
from resources.ledger import Proof, Span
from resources.pages import DayReport
from streamforge_assets.market.completeness import IdScan, id_scan
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.loader import Day, load_days
from streamforge_assets.workers.runtime import Ports, Reporter, log

PAGE = 1000
"""Aggregate trades that one REST request returns at most."""

MAX_STEPS = 500
"""Pages that are fetched at most to complete one end of a day."""


async def load_trades(job: Job, ports: Ports, reporter: Reporter) -> str:
    """Load the job's days of aggregate trades."""
    return await load_days(job, ports, reporter, load_trades_day)


async def load_trades_day(day: Day) -> DayReport:
    """Publish one day of trades and say how it was proven.

    The archive's file comes first, REST where there is none or it is broken. Ids that are missing between
    the first and the last row are asked for by id; so are those before and after, until the exchange dates
    one outside the day.
    """
    source, rows = await _take_day(day)
    start, end = await _prove_ends(day, rows)
    if await _repair(day, rows.scan.holes, rows) and source == "archive":
        source = "archive+rest"
    day.last = rows.scan.last if end.proof != "none" and end.missing is None else None
    return DayReport(
        source=source,
        source_checksum=day.file.checksum if day.file and source.startswith("archive") else "",
        bytes=day.file.bytes if day.file else 0,
        start_proof=start.proof,
        end_proof=end.proof,
        edge_missing=tuple(span for span in (start.missing, end.missing) if span),
    )


async def _take_day(day: Day) -> tuple[str, _Rows]:
    """Publish what the archive has, or REST where it has nothing that can be used; says which."""
    rows = _Rows(day)
    problem = ""
    if day.file:
        try:
            await rows.take(day.archive_tables())
        except Rejected as error:
            problem = str(error)
        if not problem and rows.scan.rows:
            return "archive", rows
        problem = problem or "the archive's file is empty"
        log.warning("%s: REST instead of the archive: %s", day.partition, problem)
        await day.restart()
    rows = _Rows(day)
    await rows.take(_rest(day, problem))
    return "rest", rows


class _Rows:
    """Rows on their way to the connector, with the scan of their ids."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self.scan = IdScan()
        self.singles = 0
        self._ids: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []

    async def take(self, tables: AsyncIterator[pa.Table]) -> None:
        """Publish tables as they come; rows of other days (a REST page reaches over midnight) are left out."""
        async for table in tables:
            inside = _inside(table, self.day)
            if inside.num_rows:
                ids = inside["trade_id"].to_numpy()
                self._ids.append(ids)
                self.scan.feed(ids)
                self.singles += int(
                    pc.sum(pc.subtract(inside["last_trade_id"], inside["first_trade_id"])).as_py()
                    + inside.num_rows
                )
                await self.day.publish(inside)
        if not self.scan.ordered:
            # Doubled or shuffled rows: the store keeps one row a key; only the holes need a second look.
            self.scan = id_scan(np.concatenate(self._ids))
            self.singles = -1

    async def take_ids(self, first: int, last: int) -> int:
        """Ask the exchange for the ids [first, last], publish those of this day; how many there were."""
        got = 0
        async for table in self.day.ports.exchange.trades_by_id(self.day.partition.symbol, first, last):
            inside = _inside(table, self.day)
            if inside.num_rows:
                got += inside.num_rows
                ids = inside["trade_id"].to_numpy()
                self._ids.append(ids)
                await self.day.publish(inside)
        if got:
            self.scan = id_scan(np.concatenate(self._ids))
        return got


class _Edge(NamedTuple):
    proof: Proof
    missing: Span | None = None


async def _rest(day: Day, problem: str) -> AsyncIterator[pa.Table]:
    try:
        async for table in day.ports.exchange.trades(day.partition.symbol, day.partition.start, day.partition.end):
            yield table
    except Unavailable as error:
        why = problem or day.file_problem or "the archive has no file for that day"
        raise Rejected(f"{why}, and REST does not answer: {error}") from error


async def _repair(day: Day, holes: list[Span], rows: _Rows) -> bool:
    """Ask for the ids of `holes`; true when any of them came."""
    got = 0
    try:
        for hole in holes:
            got += await rows.take_ids(hole.first, hole.last)
    except Unavailable as error:
        log.warning("%s: its holes cannot be repaired, REST does not answer: %s", day.partition, error)
    return got > 0


async def _prove_ends(day: Day, rows: _Rows) -> tuple[_Edge, _Edge]:
    """Prove that no trade of the day lies before the first or after the last row; fetch those that do."""
    if rows.scan.first is None or rows.scan.last is None:
        return _Edge("exchange"), _Edge("exchange")  # only REST can say that a day has no trades
    try:
        start = await _prove_start(day, rows)
        return start, await _prove_end(day, rows)
    except Unavailable:
        proof = await _by_candles(day, rows)
        follows = day.previous_last == rows.scan.first - 1
        return _Edge("neighbour" if follows else proof), _Edge(proof)


async def _prove_start(day: Day, rows: _Rows) -> _Edge:
    """Walk back by id from the first row until the exchange dates a trade before the day."""
    boundary = to_us(day.partition.start)
    for _ in range(MAX_STEPS):
        first = rows.scan.first or 0
        if first == 0 or day.previous_last == first - 1:
            return _Edge("neighbour" if first else "exchange")
        before = await _nearest(day, first - 1, -1)
        if before is not None and before.id < first - 1:
            return _Edge("exchange", _span(before.id + 1, first - 1))
        if before is None or before.time < boundary:
            return _Edge("exchange")
        await rows.take_ids(max(0, first - PAGE), first - 1)
    return _Edge("none", _span((rows.scan.first or 1) - 1, (rows.scan.first or 1) - 1))


async def _prove_end(day: Day, rows: _Rows) -> _Edge:
    """Walk on by id from the last row until the exchange dates a trade after the day, or has no more."""
    boundary = to_us(day.partition.end)
    for _ in range(MAX_STEPS):
        last = rows.scan.last or 0
        after = await _nearest(day, last + 1, 1)
        if after is not None and after.id > last + 1:
            return _Edge("exchange", _span(last + 1, after.id - 1))
        if after is None or after.time >= boundary:
            return _Edge("exchange")
        await rows.take_ids(last + 1, last + PAGE)
    return _Edge("none", _span((rows.scan.last or 0) + 1, (rows.scan.last or 0) + 1))


class _Found(NamedTuple):
    id: int
    time: int  # microseconds


async def _nearest(day: Day, trade_id: int, direction: int) -> _Found | None:
    """The trade with this id or, if the exchange lacks it, the nearest one in the direction, within a page."""
    for reach in (0, PAGE - 1):
        low, high = sorted((trade_id, max(0, trade_id + direction * reach)))
        found: _Found | None = None
        async for table in day.ports.exchange.trades_by_id(day.partition.symbol, low, high):
            if table.num_rows and (found is None or direction < 0):
                at = 0 if direction > 0 else table.num_rows - 1
                found = _Found(int(table["trade_id"][at].as_py()), _microseconds(table)[at])
        if found is not None:
            return found
    return None


def _span(first: int, last: int) -> Span:
    return Span(first=first, last=last, count=last - first + 1)


def _microseconds(table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(table["time"].cast(pa.int64()).to_numpy())


async def _by_candles(day: Day, rows: _Rows) -> Proof:
    """Without REST: the day is whole if the archive's own candles count exactly as many single trades."""
    dataset = candles("1m")
    partition = replace(day.partition, dataset=dataset.name)
    try:
        async with day.ports.exchange.archive_file(dataset, partition.symbol, partition.day) as file:
            if file is None or rows.singles < 0:
                return "none"
            counted = sum(int(pc.sum(table["trade_count"]).as_py() or 0) for table in file.tables())
    except (Rejected, Unavailable) as error:
        log.warning("%s: its ends cannot be proven by candles: %s", day.partition, error)
        return "none"
    if counted != rows.singles:
        raise Rejected(f"the archive's candles count {counted} trades, its trades are {rows.singles}")
    return "candles"


def _inside(table: pa.Table, day: Day) -> pa.Table:
    time = _microseconds(table)
    mask = (time >= to_us(day.partition.start)) & (time < to_us(day.partition.end))
    return table if mask.all() else table.filter(pa.array(mask))


if __name__ == "__main__":
    from streamforge_assets.workers.main import main

    main(load_trades)
