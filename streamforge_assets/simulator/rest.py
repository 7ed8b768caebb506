"""The REST API's answers: `exchangeInfo`, `klines` and `aggTrades` as Binance gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from resources.datasets import INTERVALS, midnight, to_ms
from resources.records import CANDLE, TRADE
from streamforge_assets.simulator.archive import scaled
from streamforge_assets.simulator.damage import damaged
from streamforge_assets.simulator.faults import FaultBook, Target
from streamforge_assets.simulator.history import MarketHistory
from streamforge_assets.simulator.instruments import QUOTE, Instrument

WEIGHTS = {"/api/v3/exchangeInfo": 20, "/api/v3/klines": 2, "/api/v3/aggTrades": 4}
"""Weight of a request by path; 1 for any other."""

_LIMIT, _DEFAULT_LIMIT = 1000, 500


class ApiError(Exception):
    """A refusal with Binance's code, sent as status 400."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def body(self) -> bytes:
        """The JSON that is sent."""
        return json.dumps({"code": self.code, "msg": str(self)}, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class _Span:
    """What a page may hold: rows whose column `name` (times in ms) is in [low, high].

    The first `limit` of them, or the last ones when there is no `low`.
    """

    name: str
    low: int | None
    high: int | None
    limit: int

    def cut(self, table: pa.Table, count: int) -> pa.Table:
        """The rows that the page takes from a day's table, at most `count`."""
        values = table[self.name].to_numpy()
        if self.name != "trade_id":
            values = values.astype("datetime64[ms]").astype(np.int64)
        inside = np.ones(len(values), dtype=np.bool_)
        if self.low is not None:
            inside &= values >= self.low
        if self.high is not None:
            inside &= values <= self.high
        chosen = np.flatnonzero(inside)
        return table.take(chosen[:count] if self.low is not None else chosen[max(len(chosen) - count, 0) :])


class RestApi:
    """Answers REST requests from the market's history, never with anything later than the exchange's time."""

    def __init__(self, history: MarketHistory, faults: FaultBook) -> None:
        self._history = history
        self._config = history.config
        self._faults = faults

    def exchange_info(self, query: Mapping[str, str]) -> bytes:
        """The limits and the symbols listed by now."""
        now = self._config.current()
        wanted = self._wanted(query)
        limits = [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": self._config.weight_limit,
            },
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61_000},
        ]
        listed = [i for i in wanted if midnight(self._config.listing(i.symbol)) <= now]
        answer = {
            "timezone": "UTC",
            "serverTime": to_ms(now),
            "rateLimits": limits,
            "exchangeFilters": [],
            "symbols": [_symbol(instrument) for instrument in listed],
        }
        return json.dumps(answer, separators=(",", ":")).encode()

    def klines(self, query: Mapping[str, str]) -> bytes:
        """A page of candles; the last one is unfinished when its interval is not over."""
        symbol, interval = self._symbol(query), query.get("interval")
        if interval is None:
            raise _missing("interval")
        if interval not in INTERVALS:
            raise ApiError(-1120, "Invalid interval.")
        start, end, limit = _range(query)
        step = INTERVALS[interval] // timedelta(milliseconds=1)
        path = "/api/v3/klines"

        span = _Span("open_time", start, end, limit)

        def page(day: date, now: datetime) -> pa.Table:
            table = self._history.candles(symbol, interval, day, now)
            return self._damaged(table, Target("rest", path, symbol, day, "candles"), span)

        rows = self._collect(symbol, page, span)
        return _kline_rows(rows, self._history.instruments[symbol], step)

    def agg_trades(self, query: Mapping[str, str]) -> bytes:
        """A page of aggregate trades: from an id, within a time, or the most recent ones."""
        symbol = self._symbol(query)
        start, end, limit = _range(query)
        first = _integer(query, "fromId")
        if first is not None and (start is not None or end is not None):
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        path = "/api/v3/aggTrades"
        span = _Span("time", start, end, limit) if first is None else _Span("trade_id", first, None, limit)

        def page(day: date, now: datetime) -> pa.Table:
            table = self._history.trades(symbol, day, now)
            return self._damaged(table, Target("rest", path, symbol, day, "trades"), span)

        rows = self._collect(symbol, page, span)
        return _trade_rows(rows, self._history.instruments[symbol])

    def _collect(self, symbol: str, page: Callable[[date, datetime], pa.Table], span: _Span) -> pa.Table:
        """The rows of `span`, gathered day by day."""
        now = self._config.current()
        found: list[pa.Table] = []
        left = span.limit
        for day in self._days(symbol, now, span):
            table = span.cut(page(day, now), left)
            found.append(table)
            left -= len(table)
            if left == 0:
                break
        if span.low is None:
            found.reverse()
        empty = (CANDLE if span.name == "open_time" else TRADE).schema.empty_table()
        return pa.concat_tables(found) if found else empty

    def _days(self, symbol: str, now: datetime, span: _Span) -> Iterator[date]:
        first, last = self._config.listing(symbol), now.date()
        if span.high is not None:
            last = min(last, _day(span.high))
        if span.low is None:
            yield from (last - timedelta(days=i) for i in range((last - first).days + 1))
            return
        by_id = span.name == "trade_id"
        begin = self._history.day_of(symbol, span.low, now.date()) if by_id else _day(span.low)
        begin = max(begin, first)
        yield from (begin + timedelta(days=i) for i in range((last - begin).days + 1))

    def _damaged(self, table: pa.Table, target: Target, span: _Span) -> pa.Table:
        for entry, fault in self._faults.data(target):
            after = damaged(table, fault)
            # Only a fault that this very page shows is used up.
            if not span.cut(after, span.limit).equals(span.cut(table, span.limit)):
                self._faults.count(entry, target)
                table = after
        return table

    def _symbol(self, query: Mapping[str, str]) -> str:
        symbol = query.get("symbol")
        if not symbol:
            raise _missing("symbol")
        if symbol not in self._history.instruments or (
            midnight(self._config.listing(symbol)) > self._config.current()
        ):
            raise ApiError(-1121, "Invalid symbol.")
        return symbol

    def _wanted(self, query: Mapping[str, str]) -> list[Instrument]:
        if "symbol" in query:
            return [self._history.instruments[self._symbol(query)]]
        if "symbols" not in query:
            return list(self._history.instruments.values())
        try:
            names = json.loads(query["symbols"])
        except ValueError as error:
            raise ApiError(-1100, "Illegal characters found in parameter 'symbols'.") from error
        return [self._history.instruments[self._symbol({"symbol": str(name)})] for name in names]


def _kline_rows(table: pa.Table, instrument: Instrument, step: int) -> bytes:
    price, size, quote = instrument.price_decimals, instrument.quantity_decimals, instrument.quote_decimals
    opens = (table["open_time"].to_numpy().astype("datetime64[ms]").astype(np.int64)).tolist()
    columns = [_text(table, name, price) for name in ("open", "high", "low", "close")]
    columns += [_text(table, "volume", size), _text(table, "quote_volume", quote)]
    columns += [_text(table, "taker_buy_volume", size), _text(table, "taker_buy_quote_volume", quote)]
    counts = table["trade_count"].to_pylist()
    rows = (
        f'[{t},"{o}","{h}","{lo}","{c}","{v}",{t + step - 1},"{q}",{n},"{bv}","{bq}","0"]'
        for t, n, o, h, lo, c, v, q, bv, bq in zip(opens, counts, *columns, strict=True)
    )
    return f"[{','.join(rows)}]".encode()


def _trade_rows(table: pa.Table, instrument: Instrument) -> bytes:
    times = (table["time"].to_numpy().astype("datetime64[ms]").astype(np.int64)).tolist()
    prices = _text(table, "price", instrument.price_decimals)
    sizes = _text(table, "quantity", instrument.quantity_decimals)
    numbers = (table[name].to_pylist() for name in ("trade_id", "first_trade_id", "last_trade_id"))
    makers = table["is_buyer_maker"].to_pylist()
    rows = (
        f'{{"a":{a},"p":"{p}","q":"{q}","f":{f},"l":{last},"T":{t},"m":{"true" if m else "false"},"M":true}}'
        for a, f, last, p, q, t, m in zip(*numbers, prices, sizes, times, makers, strict=True)
    )
    return f"[{','.join(rows)}]".encode()


def _text(table: pa.Table, name: str, places: int) -> list[str]:
    whole = scaled(table[name].to_numpy(), places).tolist()
    return [f"{value // 10**8}.{value % 10**8:08d}" for value in whole]


def _symbol(instrument: Instrument) -> dict[str, object]:
    tick, step = (f"{10.0**-d:.8f}" for d in (instrument.price_decimals, instrument.quantity_decimals))
    return {
        "symbol": instrument.symbol,
        "status": "TRADING",
        "baseAsset": instrument.base,
        "baseAssetPrecision": 8,
        "quoteAsset": QUOTE,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "900000000.00000000", "stepSize": step},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
        ],
        "permissions": ["SPOT"],
    }


def _range(query: Mapping[str, str]) -> tuple[int | None, int | None, int]:
    limit = _integer(query, "limit")
    if limit is not None and limit < 1:
        raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
    size = min(limit or _DEFAULT_LIMIT, _LIMIT)
    return _integer(query, "startTime"), _integer(query, "endTime"), size


def _integer(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        message = f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
        raise ApiError(-1100, message)
    return int(text)


def _missing(name: str) -> ApiError:
    return ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def _day(ms: int) -> date:
    # Beyond year 9000 every request is simply later than now.
    return datetime.fromtimestamp(min(ms, 253_000_000_000_000) // 1000, UTC).date()
