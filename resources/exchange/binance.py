"""Binance's spot market, or the simulated exchange, which speaks the same wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from typing import Self

import pyarrow as pa

from resources.datasets import Dataset
from resources.exchange.archive import Archive
from resources.exchange.http import Http
from resources.exchange.limits import Clock, Sleep
from resources.exchange.port import ArchiveFile, Exchange
from resources.exchange.rest import Rest
from resources.settings import Settings


class BinanceExchange(Exchange):
    """The exchange behind `settings.rest_address` and `settings.archive_address`.

    Keeps values and opens nothing until entered; one object serves one event loop. What processes share lies
    in `<home>/exchange`, downloads under way in `<home>/downloads`.

    Args:
        settings: addresses, limits, home.
        clock: seconds since the epoch; a test may give its own.
        sleep: waits for seconds; a test may give its own.
    """

    def __init__(self, settings: Settings, *, clock: Clock = time.time, sleep: Sleep = asyncio.sleep) -> None:
        self._http = Http(settings, clock=clock, sleep=sleep)
        self._rest = Rest(self._http)
        self._archive = Archive(self._http, settings.archive_address, settings.home / "downloads")

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.__aexit__(*exc)

    async def symbols(self) -> list[str]:
        return await self._rest.symbols()

    async def now(self) -> datetime:
        return await self._rest.now()

    async def first_trade(self, symbol: str) -> datetime | None:
        return await self._rest.first_trade(symbol)

    def archive_file(
        self, dataset: Dataset, symbol: str, day: date
    ) -> AbstractAsyncContextManager[ArchiveFile | None]:
        return self._archive.file(dataset, symbol, day)

    async def archive_checksum(self, dataset: Dataset, symbol: str, day: date) -> str | None:
        return await self._archive.checksum(dataset, symbol, day)

    def candles(self, dataset: Dataset, symbol: str, start: datetime, end: datetime) -> AsyncIterator[pa.Table]:
        return self._rest.candles(dataset, symbol, start, end)

    def trades(self, symbol: str, start: datetime, end: datetime) -> AsyncIterator[pa.Table]:
        return self._rest.trades(symbol, start, end)

    def trades_by_id(self, symbol: str, first: int, last: int) -> AsyncIterator[pa.Table]:
        return self._rest.trades_by_id(symbol, first, last)
