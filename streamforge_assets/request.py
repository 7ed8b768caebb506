"""What a user asks to be collected, checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from resources.datasets import DAY, Dataset, Partition, days, parse_dataset
from resources.errors import Rejected, Unavailable
from resources.exchange.port import Exchange
from resources.settings import Settings


@dataclass(frozen=True, slots=True)
class Request:
    """Datasets of symbols over the days [start, end)."""

    datasets: tuple[Dataset, ...]
    symbols: tuple[str, ...]
    start: date
    end: date

    @property
    def days(self) -> list[date]:
        """The days asked for."""
        return days(self.start, self.end)

    @property
    def partitions(self) -> list[Partition]:
        """Every partition asked for."""
        return [
            Partition(dataset.name, symbol, day)
            for symbol in self.symbols
            for dataset in self.datasets
            for day in self.days
        ]


def parse_day(text: str | date) -> date:
    """The day that `text` names. Raises Rejected when it is none."""
    if isinstance(text, date):
        return text
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise Rejected(f"{text!r} is not a day; write it as 2024-08-01") from error


def parse_request(
    datasets: Iterable[str],
    symbols: Iterable[str],
    start: str | date,
    end: str | date,
    settings: Settings,
    *,
    today: date | None = None,
) -> Request:
    """Check what can be checked without asking the exchange.

    Raises:
        Rejected: for an unknown dataset, no symbol, an empty range, or days that are not partitions.
    """
    kinds = tuple(parse_dataset(name) for name in dict.fromkeys(datasets))
    names = tuple(dict.fromkeys(symbol.strip() for symbol in symbols if symbol.strip()))
    if not kinds:
        raise Rejected("no dataset was named; there are trades and candles_<interval>, such as candles_5m")
    if not names:
        raise Rejected("no symbol was named; name some with --symbols BTCUSDT,ETHUSDT, or add them first")
    for symbol in names:
        check_symbol_text(symbol)
    first, after = parse_day(start), parse_day(end)
    if first >= after:
        raise Rejected(f"the range {first} to {after} is empty: its end is exclusive and must be after its start")
    today = today or datetime.now(UTC).date()
    if after > today:
        raise Rejected(f"{after - DAY} is not over yet (UTC); the last day that can be asked for is {today - DAY}")
    if first < settings.first_day:
        raise Rejected(
            f"{first} is before the first day of the partitions, {settings.first_day}; "
            f"to collect it set STREAMFORGE_START_DATE={first}"
        )
    return Request(kinds, names, first, after)


def check_symbol_text(symbol: str) -> None:
    """Raise Rejected for a text that cannot be a symbol on any exchange."""
    if not (symbol.isascii() and symbol.isalnum() and symbol.isupper() and 2 <= len(symbol) <= 20):
        raise Rejected(f"{symbol!r} is not a symbol; write it as the exchange does, such as BTCUSDT")


async def check_with_exchange(request: Request, exchange: Exchange) -> None:
    """Check symbols and listing dates with the exchange; says nothing when it cannot be reached.

    Raises:
        Rejected: for a symbol that the exchange does not have, or days before it was listed.
    """
    try:
        await check_symbols(request.symbols, exchange)
        for symbol in request.symbols:
            listed = await exchange.first_trade(symbol)
            if listed is not None and request.start < listed.date():
                raise Rejected(
                    f"{symbol} was listed on {listed.date()}; nothing exists on {request.start}: "
                    f"ask from {listed.date()} on"
                )
    except Unavailable:
        # The client of the exchange has said once that it cannot be reached; the archive may still serve.
        return


async def check_symbols(symbols: Sequence[str], exchange: Exchange) -> None:
    """Raise Rejected for the first symbol that the exchange does not trade."""
    refuse_unknown(symbols, await exchange.symbols())


def refuse_unknown(symbols: Sequence[str], traded: Sequence[str]) -> None:
    """Raise Rejected for the first of `symbols` that is not among those that the exchange trades."""
    known = set(traded)
    for symbol in symbols:
        if symbol not in known:
            near = ", ".join(sorted(name for name in known if name[:3] == symbol[:3])[:3] or sorted(known)[:3])
            raise Rejected(f"the exchange does not trade {symbol}; it does trade {near}")
