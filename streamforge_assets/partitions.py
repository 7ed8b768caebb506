"""The partitions of the assets: days, symbols, and market data as day × symbol."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import dagster as dg

from resources.datasets import Partition
from resources.settings import Settings

SYMBOLS = dg.DynamicPartitionsDefinition(name="symbols")
"""The symbols that somebody chose to collect. `streamforge symbols add` fills it."""

MARKET = "market"
"""The group of the market assets, and the first part of their keys."""

VERSION = "version"
"""Metadata of a market materialisation: the store's token for the rows that it speaks of."""


def market_asset_key(dataset: str) -> dg.AssetKey:
    """The key of a dataset's asset, such as `market/candles_5m`."""
    return dg.AssetKey([MARKET, dataset])


def dates(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Every UTC day that is over, from the first day of the settings."""
    return dg.DailyPartitionsDefinition(start_date=settings.first_day.isoformat())


def market(settings: Settings) -> dg.MultiPartitionsDefinition:
    """Day × symbol. A key reads `2024-08-01|BTCUSDT`: dagster sorts the dimensions by name."""
    return dg.MultiPartitionsDefinition({"date": dates(settings), "symbol": SYMBOLS})


def market_key(day: date, symbol: str) -> str:
    """The partition key of one day of one symbol."""
    return f"{day.isoformat()}|{symbol}"


def parse_market_keys(dataset: str, keys: Sequence[str]) -> list[Partition]:
    """The partitions of `dataset` that the keys stand for, in the keys' order."""
    pairs = (key.split("|", 1) for key in keys)
    return [Partition(dataset, symbol, date.fromisoformat(day)) for day, symbol in pairs]
