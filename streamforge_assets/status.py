"""What is stored: for each dataset and symbol, which days are complete, partial or absent."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from resources.datasets import DAY, days
from resources.ledger import LedgerEntry
from resources.store.port import Store
from streamforge_assets.workflow.examination import look_again

if TYPE_CHECKING:
    import pandas as pd

COMPLETE, PARTIAL, MISSING = "complete", "partial", "missing"


@dataclass(frozen=True)
class Series:
    """One dataset of one symbol. `days` tells the state of every day from the first to the last stored."""

    dataset: str
    symbol: str
    first_day: date
    last_day: date
    complete: int
    partial: int
    missing: int
    rows: int
    missing_rows: int
    explained: int
    accepted: int
    bytes: int
    days: dict[date, str] = field(repr=False)


@dataclass(frozen=True)
class Status:
    """Everything that is stored, one Series each. Shows as a table in a notebook."""

    series: tuple[Series, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data, days as ISO text."""
        return [
            {
                **asdict(item),
                "first_day": item.first_day.isoformat(),
                "last_day": item.last_day.isoformat(),
                "days": {day.isoformat(): state for day, state in item.days.items()},
            }
            for item in self.series
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row for each dataset and symbol, without the single days."""
        import pandas as pd

        rows = [{k: v for k, v in asdict(item).items() if k != "days"} for item in self.series]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(index=False))


async def read_status(store: Store) -> Status:
    """Read what is stored. Partitions whose data changed since they were examined are examined anew."""
    entries = {entry.partition: entry for entry in await store.ledger()}
    unknown = [stored for stored in await store.partitions() if stored.partition not in entries]
    for stored in unknown:
        entries[stored.partition] = await look_again(store, stored)
    groups: dict[tuple[str, str], dict[date, LedgerEntry]] = defaultdict(dict)
    for partition, entry in entries.items():
        groups[partition.dataset, partition.symbol][partition.day] = entry
    return Status(tuple(_series(key, group) for key, group in sorted(groups.items())))


def _series(key: tuple[str, str], entries: dict[date, LedgerEntry]) -> Series:
    first, last = min(entries), max(entries)
    states = {day: _state(entries.get(day)) for day in days(first, last + DAY)}
    values = list(states.values())
    return Series(
        dataset=key[0],
        symbol=key[1],
        first_day=first,
        last_day=last,
        complete=values.count(COMPLETE),
        partial=values.count(PARTIAL),
        missing=values.count(MISSING),
        rows=sum(entry.rows for entry in entries.values()),
        missing_rows=sum(entry.missing_count for entry in entries.values()),
        explained=sum(entry.explained_count for entry in entries.values()),
        accepted=sum(bool(entry.accepted_by) for entry in entries.values()),
        bytes=sum(entry.bytes for entry in entries.values()),
        days=states,
    )


def _state(entry: LedgerEntry | None) -> str:
    if entry is None:
        return MISSING
    return COMPLETE if entry.complete else PARTIAL
