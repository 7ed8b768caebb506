"""Faults on demand: what can go wrong, where it strikes, and how often it has struck."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Where = Literal["archive", "rest", "both"]
Channel = Literal["zip", "checksum", "rest"]


class _Fault(BaseModel):
    """Where a fault strikes, and how often.

    Args:
        where: the archive, the REST API, or both.
        path: pattern that the URL path must match, such as `*/aggTrades/*.zip` or `/api/v3/klines`.
        symbol: only this symbol.
        day: only this day; for REST requests the day of `startTime` (or, for a data fault, of the rows).
        times: how often; None for ever. Archive zips, archive checksums and REST answers are counted each
            for itself, so that a wrongly made file keeps its checksum whichever is fetched first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: Where = "both"
    path: str = "*"
    symbol: str | None = None
    day: date | None = None
    times: int | None = Field(None, ge=1)


class RateLimit(_Fault):
    """429 with Retry-After."""

    kind: Literal["rate_limit"] = "rate_limit"
    retry_after: int | None = Field(1, ge=0, description="seconds; None sends no header")


class Ban(_Fault):
    """418 with Retry-After."""

    kind: Literal["ban"] = "ban"
    retry_after: int = Field(1, ge=0, description="seconds")


class ServerError(_Fault):
    """An answer with a 5xx status and no useful body."""

    kind: Literal["server_error"] = "server_error"
    status: int = Field(503, ge=500, le=599)


class Reset(_Fault):
    """The connection is cut after a share of the body."""

    kind: Literal["reset"] = "reset"
    share: float = Field(0.5, ge=0, lt=1)


class Slow(_Fault):
    """The answer comes late."""

    kind: Literal["slow"] = "slow"
    seconds: float = Field(1.0, ge=0)


class MissingFile(_Fault):
    """The archive does not have the file (nor its checksum)."""

    kind: Literal["missing_file"] = "missing_file"


class TruncatedZip(_Fault):
    """The archive file ends early; its checksum is that of the whole file."""

    kind: Literal["truncated_zip"] = "truncated_zip"
    share: float = Field(0.5, ge=0, lt=1)


class WrongChecksum(_Fault):
    """The published checksum is not that of the file."""

    kind: Literal["wrong_checksum"] = "wrong_checksum"


class _Rows(_Fault):
    """Rows of one day: `rows` of them from `position`, a share of the day's rows (1 for the last ones)."""

    rows: int = Field(10, ge=1)
    position: float = Field(0.5, ge=0, le=1)


class Republished(_Rows):
    """An archive file that lacked rows, trades or candles, until it was published again.

    The first `times` downloads get the file without the rows, later ones the corrected file.
    """

    kind: Literal["republished"] = "republished"
    where: Where = "archive"
    times: int | None = Field(1, ge=1)


class MissingCandles(_Rows):
    """Candles that exist in truth are left out: those opening in [start, end), or `rows` from `position`."""

    kind: Literal["missing_candles"] = "missing_candles"
    start: datetime | None = None
    end: datetime | None = None


class DroppedTrades(_Rows):
    """Trades that exist in truth are left out."""

    kind: Literal["dropped_trades"] = "dropped_trades"


class DoubledTrades(_Rows):
    """Trades come twice."""

    kind: Literal["doubled_trades"] = "doubled_trades"


class ReorderedTrades(_Rows):
    """Trades come in the wrong order, the last first."""

    kind: Literal["reordered_trades"] = "reordered_trades"


class Outage(_Fault):
    """The exchange itself did not trade in [start, end): no trades, no candles, ids go on. Part of the truth."""

    kind: Literal["outage"] = "outage"
    start: datetime
    end: datetime

    @property
    def span(self) -> tuple[datetime, datetime]:
        """Start and end in UTC; a time without a zone is UTC."""
        return in_utc(self.start), in_utc(self.end)

    def hits(self, symbol: str) -> bool:
        """Whether the outage concerns `symbol`."""
        return self.symbol is None or self.symbol == symbol


HttpFault = RateLimit | Ban | ServerError | Reset | Slow
FileFault = MissingFile | TruncatedZip | WrongChecksum
DataFault = Republished | MissingCandles | DroppedTrades | DoubledTrades | ReorderedTrades
Fault = Annotated[HttpFault | FileFault | DataFault | Outage, Field(discriminator="kind")]

parse_fault: Callable[[object], Fault] = TypeAdapter(Fault).validate_python
"""A fault from a mapping such as `{"kind": "slow", "seconds": 2}`. Raises pydantic.ValidationError."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request asks for. `dataset` is `trades`, `candles`, or empty."""

    channel: Channel
    path: str
    symbol: str | None = None
    day: date | None = None
    dataset: str = ""


@dataclass
class Entry:
    """A fault in force and how often it struck, per channel."""

    number: int
    fault: Fault
    hits: dict[Channel, int] = field(default_factory=dict)

    def live(self, target: Target) -> bool:
        """Whether the fault strikes `target`."""
        fault = self.fault
        channel = "rest" if target.channel == "rest" else "archive"
        return (
            fault.where in ("both", channel)
            and (fault.symbol is None or fault.symbol == target.symbol)
            and (fault.day is None or fault.day == target.day)
            and (fault.path == "*" or fnmatchcase(target.path, fault.path))
            and (fault.times is None or self.hits.get(target.channel, 0) < fault.times)
        )


class FaultBook:
    """The faults in force. Safe for threads.

    Args:
        faults: those from the start.
        changed: called with the outages whenever these change.
    """

    def __init__(self, faults: Iterable[Fault], changed: Callable[[tuple[Outage, ...]], None]) -> None:
        self._entries: dict[int, Entry] = {}
        self._next = 1
        self._changed = changed
        self._lock = threading.Lock()
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> int:
        """Put a fault in force and return its number."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._entries[number] = Entry(number, fault)
        self._tell(fault)
        return number

    def remove(self, number: int) -> bool:
        """End one fault. False when there is none with this number."""
        with self._lock:
            entry = self._entries.pop(number, None)
        if entry is not None:
            self._tell(entry.fault)
        return entry is not None

    def clear(self) -> None:
        """End all faults."""
        for number in list(self._entries):
            self.remove(number)

    def entries(self) -> list[Entry]:
        """The faults in force, used up ones included, in the order they were added."""
        with self._lock:
            return list(self._entries.values())

    def http(self, target: Target) -> list[HttpFault]:
        """The faults of the answer as such; each is counted."""
        return [self._struck(entry, target) for entry in self._live(target, HttpFault)]  # type: ignore[misc]

    def file(self, target: Target) -> list[FileFault]:
        """The faults of an archive file as such; each is counted."""
        found = []
        for entry in self._live(target, FileFault):
            concerned = {"zip": (MissingFile, TruncatedZip), "checksum": (MissingFile, WrongChecksum)}
            if isinstance(entry.fault, concerned.get(target.channel, ())):
                found.append(self._struck(entry, target))
        return found  # type: ignore[return-value]  # _live chose by type

    def data(self, target: Target) -> list[tuple[Entry, DataFault]]:
        """The faults of the rows that `target` gets. The caller counts those that change something."""
        trades_only = (DroppedTrades, DoubledTrades, ReorderedTrades)
        return [
            (entry, entry.fault)
            for entry in self._live(target, DataFault)
            if isinstance(entry.fault, DataFault)
            and not (target.dataset == "candles" and isinstance(entry.fault, trades_only))
            and not (target.dataset == "trades" and isinstance(entry.fault, MissingCandles))
        ]

    def count(self, entry: Entry, target: Target) -> None:
        """Note that a fault struck."""
        with self._lock:
            entry.hits[target.channel] = entry.hits.get(target.channel, 0) + 1

    def _struck(self, entry: Entry, target: Target) -> Fault:
        self.count(entry, target)
        return entry.fault

    def _live(self, target: Target, kinds: object) -> list[Entry]:
        if not self._entries:
            return []
        return [e for e in self.entries() if isinstance(e.fault, kinds) and e.live(target)]  # type: ignore[arg-type]

    def _tell(self, fault: Fault) -> None:
        if isinstance(fault, Outage):
            self._changed(tuple(e.fault for e in self.entries() if isinstance(e.fault, Outage)))


def in_utc(moment: datetime) -> datetime:
    """`moment` in UTC; a time without a zone is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
