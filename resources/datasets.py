"""What can be collected: datasets (`trades`, `candles_5m`), their partitions, and how messages name them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from resources.errors import Rejected
from resources.records import CANDLE, TRADE, Record

DAY = timedelta(days=1)

INTERVALS: dict[str, timedelta] = {
    "1m": timedelta(minutes=1),
    "3m": timedelta(minutes=3),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "2h": timedelta(hours=2),
    "4h": timedelta(hours=4),
    "6h": timedelta(hours=6),
    "8h": timedelta(hours=8),
    "12h": timedelta(hours=12),
    "1d": timedelta(days=1),
}
"""Candle intervals that divide a UTC day, with the exchange's names."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One kind of market data: its record and, for candles, the interval."""

    name: str
    record: Record
    interval: str | None = None

    @property
    def step(self) -> timedelta:
        """Length of a candle. Raises KeyError for a dataset that has none."""
        return INTERVALS[self.interval or ""]

    @property
    def api_type(self) -> str:
        """The `type` of a historical workflow, such as `api_candles_5m`."""
        return f"api_{self.name}"


TRADES = Dataset("trades", TRADE)


def candles(interval: str) -> Dataset:
    """The candles of one interval. Raises Rejected for an interval that does not divide a day."""
    if interval not in INTERVALS:
        raise Rejected(f"{interval!r} is not a candle interval; one of {', '.join(INTERVALS)} is")
    return Dataset(f"candles_{interval}", CANDLE, interval)


def parse_dataset(name: str) -> Dataset:
    """The dataset called `name` (`trades`, `candles_5m`). Raises Rejected for any other name."""
    if name == TRADES.name:
        return TRADES
    kind, _, interval = name.partition("_")
    if kind == "candles" and interval in INTERVALS:
        return candles(interval)
    raise Rejected(f"{name!r} is not a dataset; there are trades and candles_<interval>, such as candles_5m")


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """One dataset of one symbol on one UTC day: the unit that is stored, checked and materialised."""

    dataset: str
    symbol: str
    day: date

    @property
    def start(self) -> datetime:
        """The first instant of the day."""
        return midnight(self.day)

    @property
    def end(self) -> datetime:
        """The first instant after the day."""
        return midnight(self.day) + DAY

    def __str__(self) -> str:
        return f"{self.dataset} {self.symbol} {self.day}"


def midnight(day: date) -> datetime:
    """The first instant of a UTC day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def days(start: date, end: date) -> list[date]:
    """Every day from `start` up to but not including `end`."""
    return [start + timedelta(days=i) for i in range((end - start).days)]


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch, exact."""
    return to_us(moment) // 1000


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch, exact."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
