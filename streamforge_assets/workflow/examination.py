"""A second look at a stored partition: is it in order, does it make sense, does it agree with its sibling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from resources.datasets import TRADES, Dataset, Partition, parse_dataset
from resources.ledger import LedgerEntry
from resources.pages import DayReport
from resources.store.port import Store, Stored
from streamforge_assets.market.agreement import Agreement, candle_faults, compare, order_faults
from streamforge_assets.market.sparkline import sparkline
from streamforge_assets.workers.assessment import assess


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found: sentences about faults, the comparison with the sibling datasets, a small picture."""

    order_faults: list[str]
    candle_faults: list[str]
    agreements: dict[str, Agreement]
    picture: str


async def look_again(store: Store, stored: Stored) -> LedgerEntry:
    """Write the ledger entry of data that have none: somebody changed them after they were examined, or just now.

    Two processes that collect the same day at once leave it so for a moment, or for good: the entry of the one is
    about the data that the other has replaced.
    """
    entry = await assess(store, stored, DayReport(source="unknown"))
    await store.record([entry])
    return entry


async def examine(store: Store, partition: Partition) -> Examination:
    """Read a partition back from the store and look at every row of it."""
    dataset = parse_dataset(partition.dataset)
    rows = await _rows(store, partition)
    price, volume = ("close", "volume") if dataset.interval else ("price", "quantity")
    positions = rows.column(dataset.record.order)
    if pa.types.is_timestamp(positions.type):
        positions = positions.cast(pa.int64())
    return Examination(
        order_faults=order_faults(np.asarray(positions.to_numpy())),
        candle_faults=candle_faults(rows) if dataset.interval else [],
        agreements=await _agreements(store, partition, dataset, rows),
        picture=sparkline(rows.column(price).to_numpy(), rows.column(volume).to_numpy()),
    )


async def _agreements(
    store: Store, partition: Partition, dataset: Dataset, rows: pa.Table
) -> dict[str, Agreement]:
    """Compare with every sibling that is stored whole for the same symbol and day."""
    after = partition.end.date()
    siblings = await store.ledger(symbol=partition.symbol, start=partition.day, end=after)
    found: dict[str, Agreement] = {}
    for sibling in siblings:
        other = parse_dataset(sibling.dataset)
        if not sibling.complete or sibling.accepted_by or (other == TRADES) == (dataset == TRADES):
            continue
        opposite = await _rows(store, sibling.partition)
        if dataset.interval:
            found[other.name] = compare(rows, opposite, dataset)
        else:
            found[other.name] = compare(opposite, rows, other)
    return found


async def _rows(store: Store, partition: Partition) -> pa.Table:
    return await store.read(partition.dataset, [partition.symbol], partition.start, partition.end)
