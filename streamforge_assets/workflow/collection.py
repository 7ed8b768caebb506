"""Collecting partitions: the work behind every market asset, without Dagster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from resources.datasets import DAY, Dataset, Partition
from resources.errors import StreamForgeError
from resources.ledger import Explained, LedgerEntry, Span
from resources.store.port import Store
from streamforge_assets.workflow.coordinator import Outcome
from streamforge_assets.workflow.examination import look_again
from streamforge_assets.workflow.platform import Platform

SHOWN_HOLES = 10
SETTLING = 5.0
"""Seconds to wait for the ledger entry of rows that somebody else has just written."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of one partition: its ledger entry, and the sentence why it failed, if it did."""

    partition: Partition
    entry: LedgerEntry | None
    failure: str = ""


async def collect_partitions(
    platform: Platform,
    dataset: Dataset,
    partitions: Sequence[Partition],
    *,
    refresh: bool = False,
    accepted_by: str = "",
    run_id: str = "",
    backfill: str = "",
) -> list[Collected]:
    """Bring `partitions` (all of `dataset`) into the store and say how each of them ended.

    One workflow for each unbroken run of days of a symbol, a few at a time. One that fails takes only its own
    partitions with it. With `accepted_by`, holes that remain are recorded as accepted by that person.
    `run_id` is the Dagster run that materialises what comes, `backfill` the backfill that the run is part of.
    """
    limit = asyncio.Semaphore(platform.settings.workflows)

    async def one(symbol: str, start: date, end: date) -> list[Collected]:
        async with limit:
            work = platform.coordinator.collect(
                dataset, symbol, start, end, refresh=refresh, run_id=run_id, backfill=backfill
            )
            return await _judged(platform.store, dataset, symbol, start, end, work)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(*run)) for run in day_ranges(partitions)]
    results = [item for task in tasks for item in task.result()]
    if accepted_by:
        results = [await _accept(platform, item, accepted_by) for item in results]
    return sorted(results, key=lambda item: item.partition)


def day_ranges(partitions: Iterable[Partition]) -> list[tuple[str, date, date]]:
    """The partitions as (symbol, first day, day after the last): unbroken runs of days of each symbol."""
    runs: list[tuple[str, date, date]] = []
    for partition in sorted(set(partitions), key=lambda p: (p.symbol, p.day)):
        if runs and runs[-1][0] == partition.symbol and runs[-1][2] == partition.day:
            runs[-1] = (partition.symbol, runs[-1][1], partition.day + DAY)
        else:
            runs.append((partition.symbol, partition.day, partition.day + DAY))
    return runs


def describe_holes(entry: LedgerEntry) -> str:
    """A sentence that names the first ten holes and counts all of them; empty without holes."""
    if entry.complete:
        return ""
    candles = entry.dataset != "trades"
    shown = "; ".join(_hole(span, candles=candles) for span in entry.missing[:SHOWN_HOLES])
    more = f"; and {len(entry.missing) - SHOWN_HOLES} more" if len(entry.missing) > SHOWN_HOLES else ""
    what = "candles" if candles else "trades"
    return f"{entry.missing_count} {what} are missing without an explanation: {shown}{more}"


async def _judged(
    store: Store, dataset: Dataset, symbol: str, start: date, end: date, work: Awaitable[Outcome]
) -> list[Collected]:
    """Await the workflow of these days, and say what became of each."""
    failures: dict[date, str] = {}
    cause = "its workflow ended without it"
    try:
        failures = (await work).failures
    except StreamForgeError as error:
        cause = str(error)
    wanted = [Partition(dataset.name, symbol, start + DAY * i) for i in range((end - start).days)]
    entries = await _entries(store, wanted)
    return [_judge(partition, entries.get(partition.day), failures, cause) for partition in wanted]


async def _entries(store: Store, wanted: Sequence[Partition]) -> dict[date, LedgerEntry]:
    """The ledger's entries of days of one symbol.

    Another process that loads the same day may have committed its rows and be about to write its entry: wait for
    that, and look at the rows here if it does not come.
    """
    dataset, symbol, end = wanted[0].dataset, wanted[0].symbol, wanted[-1].day + DAY
    deadline = asyncio.get_running_loop().time() + SETTLING
    while True:
        entries = {entry.day: entry for entry in await store.ledger(dataset, symbol, wanted[0].day, end)}
        absent = [await store.stored(partition) for partition in wanted if partition.day not in entries]
        unknown = [stored for stored in absent if stored is not None]
        if not unknown:
            return entries
        if asyncio.get_running_loop().time() > deadline:
            return entries | {stored.partition.day: await look_again(store, stored) for stored in unknown}
        await asyncio.sleep(0.05)


def _judge(partition: Partition, entry: LedgerEntry | None, failures: dict[date, str], cause: str) -> Collected:
    if partition.day in failures:
        return Collected(partition, entry, failures[partition.day])
    if entry is None:
        return Collected(partition, None, cause)
    return Collected(partition, entry, describe_holes(entry))


async def _accept(platform: Platform, item: Collected, by: str) -> Collected:
    """Turn the holes of a partition into accepted ones, with name and date, in the ledger."""
    entry = item.entry
    if entry is None or entry.complete:
        return item
    evidence = f"accepted by {by} on {datetime.now(UTC):%Y-%m-%d}"
    accepted = [Explained(**span.model_dump(), reason="accepted", evidence=evidence) for span in entry.missing]
    entry = entry.model_copy(update={"missing": (), "explained": (*entry.explained, *accepted), "accepted_by": by})
    await platform.store.record([entry])
    return Collected(item.partition, entry)


def _hole(span: Span, *, candles: bool) -> str:
    first, last = (_shown(position, candles=candles) for position in (span.first, span.last))
    return first if span.count == 1 else f"{first} to {last} ({span.count})"


def _shown(position: int, *, candles: bool) -> str:
    return f"{datetime.fromtimestamp(position / 1000, UTC):%H:%M}" if candles else f"id {position}"
