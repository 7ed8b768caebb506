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
    missing: Sequence[Span], ids: NDArray[np.int64], times: NDArray[np.int64], step: int, source: str
) -> list[Explained]:
    """Explain missing candles by the trades of their day.

    A candle is explained when no trade lies in its interval and the trades before and after it have
    consecutive ids, so that none can have been lost there.

    Args:
        missing: runs of open times, ms.
        ids: ids of the day's trades, ascending, shape (n,).
        times: times of the same trades, ms, shape (n,).
        step: the candle's length, ms.
        source: where the trades were read, for the evidence.
    """
    explained: list[Explained] = []
    for run in missing:
        slots = np.arange(run.first, run.last + 1, step, dtype=np.int64)
        at = np.searchsorted(times, slots)
        quiet = np.searchsorted(times, slots + step) == at
        inner = quiet & (at > 0) & (at < len(ids))
        quiet[inner] = ids[at[inner]] - ids[at[inner] - 1] == 1
        for span in spans(slots[quiet], step):
            evidence = f"{source}: {_around(int(np.searchsorted(times, span.first)), ids)}"
            explained.append(Explained(**span.model_dump(), reason="no trades", evidence=evidence))
    return explained


def _around(at: int, ids: NDArray[np.int64]) -> str:
    if len(ids) == 0:
        return "the day has no trades"
    if at == 0:
        return f"trade {ids[0]}, the day's first, is later"
    if at == len(ids):
        return f"trade {ids[-1]}, the day's last, is earlier"
    return f"trades {ids[at - 1]} and {ids[at]} follow each other across it"


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
