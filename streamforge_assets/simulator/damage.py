"""What the data faults do to a day's rows. Pure."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa

from streamforge_assets.simulator.faults import (
    DataFault,
    DoubledTrades,
    MissingCandles,
    ReorderedTrades,
    in_utc,
)


def damaged(table: pa.Table, fault: DataFault) -> pa.Table:
    """The rows of one symbol and day as `fault` leaves them: fewer, doubled, or in another order."""
    if table.num_rows == 0:
        return table
    if isinstance(fault, MissingCandles) and (fault.start is not None or fault.end is not None):
        return table.filter(pa.array(~_within(table, fault.start, fault.end)))
    rows = np.arange(table.num_rows)
    first = round(fault.position * max(table.num_rows - fault.rows, 0))
    last = min(first + fault.rows, table.num_rows)
    if isinstance(fault, DoubledTrades):
        return table.take(np.sort(np.concatenate([rows, rows[first:last]])))
    if isinstance(fault, ReorderedTrades):
        rows[first:last] = rows[first:last][::-1]
        return table.take(rows)
    return table.take(np.delete(rows, slice(first, last)))


def _within(table: pa.Table, start: datetime | None, end: datetime | None) -> np.ndarray:
    times = table["open_time"].to_numpy()
    inside = np.ones(len(times), dtype=np.bool_)
    if start is not None:
        inside &= times >= np.datetime64(in_utc(start).replace(tzinfo=None), "us")
    if end is not None:
        inside &= times < np.datetime64(in_utc(end).replace(tzinfo=None), "us")
    return inside
