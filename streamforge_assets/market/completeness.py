"""What a day of data holds and lacks, computed from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from resources.datasets import Dataset, Partition, to_ms
from resources.ledger import Explained, Span

S = TypeVar("S", bound=Span)

MAX_SPANS = 200
"""Spans kept one by one in a ledger entry; the rest are summed up in the last one."""


@dataclass(slots=True)
class IdScan:
    """Follows trade ids as they stream by, in any chunks, and keeps the holes between them.

    `ordered` tells whether every id was above the one before; only then are `holes` and `rows` exact.
    """

    rows: int = 0
    first: int | None = None
    last: int | None = None
    ordered: bool = True
    holes: list[Span] = field(default_factory=list)

    def feed(self, ids: NDArray[np.int64]) -> None:
        """Take the next ids, shape (n,)."""
        if len(ids) == 0:
            return
        if self.first is None:
            self.first = int(ids[0])
        before = self.last if self.last is not None else int(ids[0]) - 1
        steps = np.diff(ids, prepend=before)
        self.ordered = self.ordered and bool((steps > 0).all())
        self.holes += [
            Span(first=int(ids[i] - steps[i] + 1), last=int(ids[i] - 1), count=int(steps[i] - 1))
            for i in np.flatnonzero(steps > 1)
        ]
        self.rows += len(ids)
        self.last = int(ids[-1])


def id_scan(ids: NDArray[np.int64]) -> IdScan:
    """Scan all ids of a day at once, in any order and with any repetition, shape (n,)."""
    scan = IdScan()
    scan.feed(np.unique(ids))
    return scan


def grid(partition: Partition, dataset: Dataset) -> NDArray[np.int64]:
    """Open times (ms) of every candle that the day can have, shape (day / interval,)."""
    step = int(dataset.step.total_seconds() * 1000)
    return np.arange(to_ms(partition.start), to_ms(partition.end), step, dtype=np.int64)


def missing_candles(open_times: NDArray[np.int64], partition: Partition, dataset: Dataset) -> list[Span]:
    """The unbroken runs of the day's grid that are not among `open_times` (ms, any order), shape (n,)."""
    slots = grid(partition, dataset)
    return spans(slots[~np.isin(slots, open_times)], int(slots[1] - slots[0]) if len(slots) > 1 else 1)


def spans(positions: NDArray[np.int64], step: int) -> list[Span]:
    """Ascending positions as unbroken runs, neighbours `step` apart."""
    if len(positions) == 0:
        return []
    breaks = np.flatnonzero(np.diff(positions) != step)
    firsts = positions[np.append(0, breaks + 1)]
    lasts = positions[np.append(breaks, len(positions) - 1)]
    return [
        Span(first=int(a), last=int(b), count=int((b - a) // step + 1)) for a, b in zip(firsts, lasts, strict=True)
    ]


def without_trades(
    missing: Sequence[Span], trade_times: NDArray[np.int64], ids: IdScan, step: int, source: str
) -> list[Explained]:
    """Explain missing candles by the trades of their day.

    A candle is explained when its day's trade ids have no hole and none of the trades lies in its interval.

    Args:
        missing: runs of open times, ms.
        trade_times: times of all the day's trades, ms, ascending, shape (n,).
        ids: the scan of the same trades' ids; a hole among them explains nothing.
        step: the candle's length, ms.
        source: where the trades were read, for the evidence.
    """
    if ids.holes or not ids.ordered:
        return []
    explained: list[Explained] = []
    for run in missing:
        slots = np.arange(run.first, run.last + 1, step, dtype=np.int64)
        inside = np.searchsorted(trade_times, slots + step) - np.searchsorted(trade_times, slots)
        for quiet in spans(slots[inside == 0], step):
            at = int(np.searchsorted(trade_times, quiet.first))
            evidence = f"{source}: {_around(at, ids)}"
            explained.append(Explained(**quiet.model_dump(), reason="no trades", evidence=evidence))
    return explained


def _around(at: int, ids: IdScan) -> str:
    if ids.first is None or ids.last is None:
        return "the day has no trades"
    if at == 0:
        return f"trade {ids.first}, the day's first, is later"
    if at == ids.rows:
        return f"trade {ids.last}, the day's last, is earlier"
    return f"trades {ids.first + at - 1} and {ids.first + at} follow each other across it"


def subtract(missing: Iterable[Span], explained: Iterable[Span], step: int) -> list[Span]:
    """The runs of `missing` without the positions of `explained`."""
    gone = _positions(explained, step)
    left = _positions(missing, step)
    return spans(left[~np.isin(left, gone)], step)


def bounded(runs: Sequence[S]) -> tuple[S, ...]:
    """At most MAX_SPANS runs; the last one then stands for all that follow, with their total count."""
    if len(runs) <= MAX_SPANS:
        return tuple(runs)
    rest = runs[MAX_SPANS - 1 :]
    total = rest[0].model_copy(update={"last": rest[-1].last, "count": sum(run.count for run in rest)})
    return (*runs[: MAX_SPANS - 1], total)


def _positions(runs: Iterable[Span], step: int) -> NDArray[np.int64]:
    parts = [np.arange(run.first, run.last + 1, step, dtype=np.int64) for run in runs]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
