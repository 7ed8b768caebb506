"""The lake's files: their names, which of them count, and listing them.

One folder per dataset and symbol. In it a day is one base file, and the small live appends on top of it:

    2024-08-01.1722500125456789.288rows.parquet        base: day, generation, rows
    2024-08-01.1722500125456789.3-3.12rows.parquet     delta 3 on that base
    2024-08-01.1722500125456789.1-4.90rows.parquet     deltas 1 to 4, merged

The highest generation is the day's base; deltas of another generation, and deltas inside a merged one, do not
count. So one rename replaces a day, and what a crash leaves behind is not seen. A generation is the time of
its writing in microseconds, so a name never comes back with other rows.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from resources.datasets import Partition, parse_dataset
from resources.errors import Rejected, Unavailable

TEMPORARY = ".tmp"
_NAME = re.compile(r"(\d{4}-\d\d-\d\d)\.(\d{16})(?:\.(\d+)-(\d+))?\.(\d+)rows\.parquet")
_SYMBOL = re.compile(r"\w[\w.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Segment:
    """One Parquet file of one day. `first` and `last` number the deltas in it; both are 0 in a base."""

    path: str
    day: str
    generation: int
    first: int
    last: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DayFiles:
    """The files that make up one day: a base, and deltas in the order of their writing."""

    base: Segment
    deltas: tuple[Segment, ...] = ()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All files, the earliest written first."""
        return (self.base, *self.deltas)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(segment.bytes for segment in self.segments)

    @property
    def version(self) -> str:
        """The token that changes whenever the rows do."""
        return f"{self.base.generation}.{self.deltas[-1].last if self.deltas else 0}.{self.bytes}"


def base_name(day: date, generation: int, rows: int) -> str:
    """File name of a day's base."""
    return f"{day}.{generation:016}.{rows}rows.parquet"


def delta_name(day: date, generation: int, first: int, last: int, rows: int) -> str:
    """File name of the deltas `first` to `last` on the base of `generation`."""
    return f"{day}.{generation:016}.{first}-{last}.{rows}rows.parquet"


def next_generation(files: DayFiles | None) -> int:
    """A generation above that of `files` and, as far as the clock is right, above every earlier one."""
    return max(files.base.generation + 1 if files else 0, time.time_ns() // 1000)


def folder_of(root: Path, dataset: str, symbol: str) -> Path:
    """The folder of one dataset and symbol. Raises Rejected for names that cannot be a folder's."""
    parse_dataset(dataset)
    if not _SYMBOL.fullmatch(symbol) or len(symbol.encode()) > 200:
        raise Rejected(f"{symbol!r} is not a symbol; write letters, digits, '_', '-' and '.', such as BTCUSDT")
    return root / dataset / symbol


def parse_name(name: str) -> tuple[str, int, int, int, int] | None:
    """Day, generation, first and last delta, and rows of a file name; None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    day, generation, first, last, rows = match.groups()
    return day, int(generation), int(first or 0), int(last or 0), int(rows)


def resolve(segments: Iterable[Segment]) -> tuple[DayFiles | None, list[Segment]]:
    """Split the files of one day into those that count and those that no longer do."""
    base: Segment | None = None
    deltas: list[Segment] = []
    dead: list[Segment] = []
    for segment in segments:
        if segment.last:
            deltas.append(segment)
        elif base is None or segment.generation > base.generation:
            dead.extend([base] if base else [])
            base = segment
        else:
            dead.append(segment)
    alive: list[Segment] = []
    covered = 0
    for delta in sorted(deltas, key=lambda delta: (delta.first, -delta.last)):
        if base is None or delta.generation != base.generation or delta.last <= covered:
            dead.append(delta)
        else:
            alive.append(delta)
            covered = delta.last
    return (DayFiles(base, tuple(alive)) if base else None), dead


def list_days(
    folder: Path, start: date, end: date, *, patience: float = 30.0
) -> dict[str, tuple[DayFiles | None, list[Segment]]]:
    """What lies in `folder` for each day of [start, end): the files that count, and those that do not.

    The listing is a moment's picture: publishing waits for it. Raises Unavailable when publishing takes
    longer than `patience` seconds.
    """
    first, stop = str(start), str(end)
    found: dict[str, list[Segment]] = {}
    try:
        with _flock(folder, fcntl.LOCK_SH, patience) as descriptor, os.scandir(descriptor) as entries:
            for entry in entries:
                if not first <= entry.name[:10] < stop:
                    continue
                if parsed := parse_name(entry.name):
                    path = f"{folder}/{entry.name}"
                    found.setdefault(parsed[0], []).append(Segment(path, *parsed, entry.stat().st_size))
    except FileNotFoundError:
        return {}
    return {day: resolve(found[day]) for day in sorted(found)}


def visible_days(folder: Path, start: date = date.min, end: date = date.max) -> dict[str, DayFiles]:
    """The files that count, for each stored day of [start, end)."""
    days = list_days(folder, start, end).items()
    return {day: files for day, (files, _) in days if files is not None}


def visible_day(folder: Path, day: date) -> DayFiles | None:
    """The files that count for one day, or None where it holds no data."""
    return visible_days(folder, day, day + timedelta(days=1)).get(str(day))


def walk(root: Path, dataset: str | None, symbol: str | None) -> Iterator[tuple[str, str, Path]]:
    """Every folder of the lake that `dataset` and `symbol` (None: any) select, sorted."""
    for kind in [dataset] if dataset else _folders(root):
        try:
            parse_dataset(kind)
        except Rejected:
            if dataset:
                raise
            continue
        for name in [symbol] if symbol else _folders(root / kind):
            if symbol or _SYMBOL.fullmatch(name):
                yield kind, name, folder_of(root, kind, name)


def partition_of(dataset: str, symbol: str, day: str) -> Partition:
    """The partition that a folder's day is."""
    return Partition(dataset, symbol, date.fromisoformat(day))


@contextmanager
def publishing(folder: Path, *, patience: float = 30.0) -> Iterator[int]:
    """Hold off listings of `folder` while files appear and vanish; yields its descriptor.

    A listing is no atomic act: without this, one could miss the new file and the old one it replaces.
    """
    with _flock(folder, fcntl.LOCK_EX, patience) as descriptor:
        yield descriptor


@contextmanager
def _flock(folder: Path, mode: int, patience: float) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise Unavailable(f"{folder} was busy for {patience:g} s; try again") from error
                time.sleep(0.001)
        yield descriptor
    finally:
        os.close(descriptor)


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except FileNotFoundError:
        return []
