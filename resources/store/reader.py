"""Reading the lake: one segment, one day merged from several, and ranges of days."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from resources.datasets import Dataset, midnight, to_us
from resources.errors import Unavailable
from resources.records import LABEL, Record
from resources.store.rows import as_keys, labels_column, merge, with_labels
from resources.store.segments import DayFiles, visible_day, visible_days

BATCH_ROWS = 65_536
RELISTINGS = 100
"""How often a reader whose files were replaced under it looks again before it gives up."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DayRead:
    """One day of a range read: the files that counted when the folder was listed."""

    folder: Path
    day: str
    files: DayFiles


@dataclass(frozen=True, slots=True)
class RangeRead:
    """What a range read returns: its columns, without the labels, and its bounds in microseconds."""

    record: Record
    columns: tuple[str, ...]
    start: int
    end: int

    def read(self, work: Sequence[DayRead]) -> list[pa.Table]:
        """Read days, one table each, without their label columns."""
        return [retrying(item.folder, item.day, item.files, self._read_day) for item in work]

    def _read_day(self, files: DayFiles | None) -> pa.Table:
        needed = {*self.columns}
        start = to_us(midnight(date.fromisoformat(Path(files.base.path).name[:10]))) if files else 0
        cut = start < self.start or start + 86_400_000_000 > self.end
        if cut:
            needed.add(self.record.time)
        if files and files.deltas:
            needed.add(self.record.order)
        names = [name for name in self.record.schema.names if name in needed]
        if files is None:
            rows = self.record.schema.empty_table().select(names)
        elif files.deltas:
            rows = pa.concat_tables(merged(files, names, {}, self.record))
        else:
            rows = _read_plain(files.base.path, names)
        if cut:
            times = as_keys(rows.column(self.record.time))
            rows = rows.filter(pa.array((times >= self.start) & (times < self.end)))
        return rows.select(list(self.columns))


def plan(root: Path, dataset: Dataset, symbol: str, start: datetime, end: datetime) -> list[DayRead]:
    """The days of [start, end) that hold rows of one symbol."""
    folder = root / dataset.name / symbol
    last = (end - timedelta(microseconds=1)).astimezone(UTC).date()
    found = visible_days(folder, start.astimezone(UTC).date(), last + timedelta(days=1))
    return [DayRead(folder, day, files) for day, files in found.items() if files.base.rows or files.deltas]


def retrying(folder: Path, day: str, files: DayFiles | None, read: Callable[[DayFiles | None], T]) -> T:
    """Apply `read` to a day's files, listing them again while writers replace them meanwhile."""
    for _ in range(RELISTINGS):
        try:
            return read(files)
        except FileNotFoundError:
            files = visible_day(folder, date.fromisoformat(day))
    raise Unavailable(f"{day} in {folder} was replaced {RELISTINGS} times while it was read; try again")


def assemble(
    record: Record, columns: list[str], symbols: Sequence[str], parts: list[list[pa.Table]], interval: str | None
) -> pa.Table:
    """One table of each symbol's parts, its label columns made from `symbols` and `interval`."""
    schema = pa.schema([record.schema.field(name) for name in columns])
    plain = [name for name in columns if record.schema.field(name).type != LABEL]
    counts = [sum(len(part) for part in of_symbol) for of_symbol in parts]
    flat = [part for of_symbol in parts for part in of_symbol]
    rows = pa.concat_tables(flat) if flat else record.schema.empty_table().select(plain)
    labels = {
        "symbol": labels_column(list(symbols), counts),
        "interval": labels_column([interval or ""], [sum(counts)]),
    }
    return pa.Table.from_arrays([labels[n] if n in labels else rows.column(n) for n in columns], schema=schema)


def merged(files: DayFiles, names: list[str], labels: dict[str, str], record: Record) -> Iterator[pa.Table]:
    """Yield a day's rows in key order, of each key the last one written. `names` include the key's."""
    streams = [tables_of(segment.path, names, labels, record) for segment in files.segments]
    rows = streams[0]
    for newer in streams[1:]:
        rows = merge(rows, newer, record.order)
    return rows


def read_segment(path: str, names: list[str], labels: dict[str, str], record: Record) -> pa.Table:
    """A file's rows, the label columns made from `labels`."""
    return with_labels(_read_plain(path, [n for n in names if n not in labels]), labels, names, record)


def tables_of(path: str, names: list[str], labels: dict[str, str], record: Record) -> Iterator[pa.Table]:
    """Yield a file's rows in tables of bounded size. The file is opened at once, so it may vanish later."""
    file = pq.ParquetFile(path, pre_buffer=False)
    return _tables(file, names, labels, record)


def _tables(file: pq.ParquetFile, names: list[str], labels: dict[str, str], record: Record) -> Iterator[pa.Table]:
    plain = [name for name in names if name not in labels]
    with file:
        for batch in file.iter_batches(BATCH_ROWS, columns=plain, use_threads=False):
            yield with_labels(pa.Table.from_batches([batch]), labels, names, record)


def _read_plain(path: str, names: list[str]) -> pa.Table:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        return file.read(columns=names, use_threads=False)
