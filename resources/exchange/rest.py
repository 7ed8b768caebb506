"""The REST API in our terms: pages that are checked against what was asked, and put together.

A page whose rows are not ascending, or outside what was asked, counts as garbage and is asked for again. Each
page starts after the one before, so a server that repeats a page cannot hold a caller for ever.
Source: binance-spot-api-docs `rest-api.md`, "Market Data endpoints".
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resources.datasets import Dataset, to_ms, to_us
from resources.errors import Rejected
from resources.exchange.http import Http
from resources.exchange.parse import parse_candles, parse_trades

PAGE = 1000
"""Rows of a full page: the most that the exchange gives."""
INFO_WEIGHT, TIME_WEIGHT, KLINES_WEIGHT, TRADES_WEIGHT = 20, 1, 2, 4
_CLOCK_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Page:
    """Trades as a table, with their ids and times (µs) at hand."""

    table: pa.Table
    ids: Any
    times: Any

    def from_row(self, first: int, end: int | None = None) -> pa.Table:
        return self.table.slice(first, (len(self.ids) if end is None else end) - first)


class Rest:
    """The market data endpoints. Every method raises as `Http.rest` does."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._ready = asyncio.Lock()
        self._clock_read = -_CLOCK_SECONDS
        self._told = False

    async def symbols(self) -> list[str]:
        """Return the symbols that are traded now, sorted."""
        await self._prepare()
        info = await self._info()
        try:
            return sorted(s["symbol"] for s in info["symbols"] if s.get("status", "TRADING") == "TRADING")
        except (KeyError, TypeError, AttributeError) as error:
            raise Rejected(f"exchangeInfo lists its symbols in an unknown form: {error}") from error

    async def now(self) -> datetime:
        """Return the exchange's time."""
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=await self._time())

    async def first_trade(self, symbol: str) -> datetime | None:
        """Return the time of the symbol's first aggregate trade; None if there is none."""
        page = await self._trades(symbol, first=0, limit=1)
        return _moment(page.times[0]) if len(page.ids) else None

    async def candles(
        self, dataset: Dataset, symbol: str, start: datetime, end: datetime
    ) -> AsyncIterator[pa.Table]:
        """Yield the candles that open in [start, end) and have closed, page by page, ascending."""
        await self._prepare()
        interval, step = dataset.interval or "", int(dataset.step.total_seconds() * 1000)
        cursor, stop = to_ms(start), to_ms(end)
        while cursor < stop:
            params = {
                "symbol": symbol,
                "interval": interval,
                "startTime": str(cursor),
                "endTime": str(stop - 1),
                "limit": str(PAGE),
            }
            now = int(self._http.budget.server_time() * 1_000_000)

            def read(body: bytes, low: int = cursor) -> pa.Table:
                table = parse_candles(body, symbol, interval)
                _check_page(_int64(table, "open_time") // 1000, low, stop, f"klines {interval} of {symbol}")
                return table

            table = await self._http.rest("/api/v3/klines", params, weight=KLINES_WEIGHT, read=read)
            if not table.num_rows:
                return
            cursor = int(_int64(table, "open_time")[-1]) // 1000 + step
            closed = int(np.searchsorted(_int64(table, "close_time"), now))
            if closed:
                yield table.slice(0, closed)
            if closed < table.num_rows:
                return

    async def trades(self, symbol: str, start: datetime, end: datetime) -> AsyncIterator[pa.Table]:
        """Yield the aggregate trades of [start, end), page by page, ascending."""
        low, high = to_us(start), to_us(end)
        page = await self._first_page(symbol, start)
        while page is not None and len(page.ids):
            begin, stop = (int(row) for row in np.searchsorted(page.times, [low, high]))
            if stop > begin:
                yield page.from_row(begin, stop)
            if stop < len(page.ids):
                return
            page = await self._trades(symbol, first=int(page.ids[-1]) + 1)

    async def trades_by_id(self, symbol: str, first: int, last: int) -> AsyncIterator[pa.Table]:
        """Yield the aggregate trades with ids in [first, last], page by page, ascending."""
        while first <= last:
            page = await self._trades(symbol, first=first, limit=min(PAGE, last - first + 1))
            stop = int(np.searchsorted(page.ids, last, side="right"))
            if stop:
                yield page.from_row(0, stop)
            if not len(page.ids) or stop < len(page.ids):
                return
            first = int(page.ids[-1]) + 1

    async def _first_page(self, symbol: str, start: datetime) -> _Page | None:
        """Fetch a page that holds the first trade at or after `start`, maybe behind earlier ones; None: no trade.

        The exchange's search by time may answer with a later trade than the first (`limit` has counted from the
        end of the range: binance-spot-api-docs issue 10). Ids do not lie, so the answer is walked back by id, in
        growing steps, until the trade before it is earlier than `start`.
        """
        found = await self._trades(symbol, start=start, limit=1)
        if not len(found.ids):
            return None
        low = to_us(start)
        edge = int(found.ids[0])  # not before start, and so is every trade that is known after it
        before, step = -1, 1  # no trade up to `before` is in the range
        while before + 1 < edge:
            probe = max(before + 1, edge - step)
            page = await self._trades(symbol, first=probe)
            earlier = int(np.searchsorted(page.times, low))
            if 0 < earlier < len(page.ids):
                return page
            if not len(page.ids):
                raise Rejected(f"aggTrades of {symbol}: trade {edge} is there, but from {probe} on there is none")
            if earlier:
                before, step = int(page.ids[-1]), PAGE
            else:
                edge, step = probe, PAGE if step == 1 else step * 2
        return await self._trades(symbol, first=edge)

    async def _trades(
        self, symbol: str, *, first: int | None = None, start: datetime | None = None, limit: int = PAGE
    ) -> _Page:
        await self._prepare()
        params = {"symbol": symbol, "limit": str(limit)}
        if first is not None:
            params["fromId"] = str(first)
        if start is not None:
            params["startTime"] = str(to_ms(start))

        def read(body: bytes) -> _Page:
            table = parse_trades(body, symbol)
            page = _Page(table, _int64(table, "trade_id"), _int64(table, "time"))
            where = f"aggTrades of {symbol}"
            _check_page(page.ids, first or 0, None, where)
            if len(page.ids) > limit:
                raise Rejected(f"{where}: {len(page.ids)} rows where {limit} were asked for")
            if start is not None and len(page.ids) and page.times[0] < to_us(start):
                raise Rejected(f"{where}: asked from {start}, the answer begins earlier")
            if (np.diff(page.times) < 0).any():
                raise Rejected(f"{where}: times go back while ids go on")
            return page

        return await self._http.rest("/api/v3/aggTrades", params, weight=TRADES_WEIGHT, read=read)

    async def _prepare(self) -> None:
        """Before the first request and every ten minutes: set the clock; once: learn the weight limit."""
        async with self._ready:
            if time.monotonic() - self._clock_read >= _CLOCK_SECONDS:
                await self._time()
                self._clock_read = time.monotonic()
            if not self._told:
                await self._info()
                self._told = True

    async def _info(self) -> dict[str, Any]:
        info = await self._http.rest("/api/v3/exchangeInfo", {}, weight=INFO_WEIGHT, read=_object)
        rules = info.get("rateLimits")
        if isinstance(rules, list):
            self._http.budget.learn([rule for rule in rules if isinstance(rule, dict)])
        return info

    async def _time(self) -> int:
        """The exchange's time in ms. Corrects the budget's idea of its clock."""

        def read(body: bytes) -> int:
            told = _object(body).get("serverTime")
            if not isinstance(told, int):
                raise Rejected(f"time: the answer has no serverTime: {body[:80]!r}")
            return told if told < 10**14 else told // 1000

        answer = await self._http.rest_timed("/api/v3/time", {}, weight=TIME_WEIGHT, read=read)
        self._http.budget.set_clock(answer.value / 1000, answer.sent, answer.received)
        return answer.value


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"the answer is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Rejected(f"the answer is not a JSON object: {body[:80]!r}")
    return value


def _check_page(positions: Any, low: int, stop: int | None, where: str) -> None:
    """Positions must ascend strictly, from `low` on and below `stop`."""
    if not len(positions):
        return
    if (np.diff(positions) <= 0).any():
        raise Rejected(f"{where}: the rows of a page do not ascend")
    if positions[0] < low or (stop is not None and positions[-1] >= stop):
        raise Rejected(f"{where}: a page holds {positions[0]} to {positions[-1]}, asked from {low}")


def _int64(table: pa.Table, column: str) -> Any:
    return pc.cast(table.column(column), pa.int64()).to_numpy()


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(micros))
