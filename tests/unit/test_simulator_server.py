"""The exchange on the wire: pages, errors, request weight, byte ranges."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.server import SimulatedExchange
from streamforge_assets.simulator.weights import WeightMeter

NOW = datetime(2024, 1, 3, 12, 2, 30, tzinfo=UTC)
CONFIG = SimulatorConfig(symbols=2, seed=5, trades_scale=0.05, now=NOW)
START = 1704067200000
MINUTE = 60_000


@pytest.fixture
async def exchange():
    async with SimulatedExchange(CONFIG) as running:
        yield running


@pytest.fixture
def get(exchange, http):
    async def ask(path, **query):
        async with http.get(exchange.rest_url + path, params=query) as response:
            return response.status, await response.json(content_type=None), response.headers

    return ask


async def test_exchange_info_tells_limits_and_symbols(get):
    status, body, headers = await get("/api/v3/exchangeInfo")
    assert status == 200
    limit = body["rateLimits"][0]
    assert (limit["rateLimitType"], limit["interval"], limit["intervalNum"], limit["limit"]) == (
        "REQUEST_WEIGHT",
        "MINUTE",
        1,
        6000,
    )
    assert [s["symbol"] for s in body["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    assert {f["filterType"] for f in body["symbols"][0]["filters"]} >= {"PRICE_FILTER", "LOT_SIZE"}
    assert headers["X-MBX-USED-WEIGHT-1M"] == "20"


async def test_klines_page_like_binance(get, exchange):
    query = {"symbol": "BTCUSDT", "interval": "5m"}
    _, page, _ = await get("/api/v3/klines", **query, startTime=START, limit=300)
    truth = exchange.market.candles("BTCUSDT", "5m", date(2024, 1, 1)).to_pylist()
    for row, candle in zip(page, truth, strict=False):
        assert row[0] == round(candle["open_time"].timestamp() * 1000)
        assert row[6] == row[0] + 5 * MINUTE - 1
        assert [float(row[i]) for i in (1, 2, 3, 4, 5)] == [
            candle[k] for k in ("open", "high", "low", "close", "volume")
        ]
        assert row[8] == candle["trade_count"]
        assert all(isinstance(row[i], str) for i in (1, 2, 3, 4, 5, 7, 9, 10, 11))
    assert len(page) == 300
    assert page == sorted(page)
    _, some, _ = await get("/api/v3/klines", **query, startTime=START, endTime=START + 10 * MINUTE)
    assert [row[0] for row in some] == [START, START + 5 * MINUTE, START + 10 * MINUTE]
    _, last, _ = await get("/api/v3/klines", **query, limit=2)
    assert last[-1][0] <= NOW.timestamp() * 1000
    _, before, _ = await get("/api/v3/klines", **query, endTime=START + 7 * MINUTE, limit=1)
    assert before[0][0] == START + 5 * MINUTE


async def test_trades_by_id_reach_the_present_and_no_further(get, exchange):
    found, following = [], 0
    while True:
        _, page, _ = await get("/api/v3/aggTrades", symbol="ETHUSDT", fromId=following, limit=1000)
        if not page:
            break
        found += page
        following = page[-1]["a"] + 1
    truth = [
        trade
        for offset in range(3)
        for trade in exchange.market.trades("ETHUSDT", date(2024, 1, 1) + timedelta(days=offset), NOW).to_pylist()
    ]
    assert [t["a"] for t in found] == list(range(len(truth)))
    assert found[-1]["T"] <= NOW.timestamp() * 1000
    for row, trade in zip(found, truth, strict=True):
        assert (row["f"], row["l"], row["m"]) == (
            trade["first_trade_id"],
            trade["last_trade_id"],
            trade["is_buyer_maker"],
        )
        assert (float(row["p"]), float(row["q"])) == (trade["price"], trade["quantity"])


async def test_trades_by_time_and_the_most_recent(get):
    at = START + 3_600_000
    _, page, _ = await get("/api/v3/aggTrades", symbol="ETHUSDT", startTime=at, endTime=at + 60 * MINUTE)
    assert page
    assert all(at <= t["T"] <= at + 60 * MINUTE for t in page)
    _, recent, _ = await get("/api/v3/aggTrades", symbol="ETHUSDT", limit=3)
    assert len(recent) == 3
    assert np.all(np.diff([t["a"] for t in recent]) == 1)
    _, following, _ = await get("/api/v3/aggTrades", symbol="ETHUSDT", fromId=recent[-1]["a"] + 1)
    assert following == []


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("klines", {"symbol": "NOPE", "interval": "5m"}, -1121),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("klines", {"interval": "5m"}, -1102),
        ("klines", {"symbol": "BTCUSDT"}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "5m", "limit": "ten"}, -1100),
        ("aggTrades", {"symbol": "BTCUSDT", "fromId": "1", "startTime": "1"}, -1128),
    ],
)
async def test_bad_requests_get_binances_codes(get, path, query, code):
    status, body, _ = await get(f"/api/v3/{path}", **query)
    assert (status, body["code"]) == (400, code)
    assert body["msg"]


async def test_the_far_future_and_the_far_past_are_empty(get):
    for start in (9 * 10**17, START + 10**10):
        status, page, _ = await get("/api/v3/klines", symbol="BTCUSDT", interval="5m", startTime=start)
        assert (status, page) == (200, [])
    _, first, _ = await get("/api/v3/klines", symbol="BTCUSDT", interval="5m", startTime=0, limit=1)
    assert first[0][0] == START


async def test_weight_is_enforced_and_ignoring_it_gets_a_ban(http):
    config = CONFIG.model_copy(update={"weight_limit": 5, "ban_after": 2})
    async with SimulatedExchange(config) as exchange:
        statuses = []
        # At a minute's edge the count starts again, so there are more requests than one minute needs.
        for _ in range(12):
            async with http.get(exchange.rest_url + "/api/v3/time") as response:
                statuses.append(response.status)
                if response.status != 200:
                    assert int(response.headers["Retry-After"]) > 0
                assert "X-MBX-USED-WEIGHT-1M" in response.headers
        assert statuses[:5] == [200] * 5
        assert {429, 418} <= set(statuses)
        assert exchange.stats.refused == statuses.count(429)
        async with http.get(exchange.rest_url + "/health") as response:
            assert response.status == 200


def test_windows_are_utc_minutes_and_bans_grow():
    now = [120.0]
    meter = WeightMeter(10, ban_after=1, ban_seconds=100, clock=lambda: now[0])
    assert meter.charge("a", 10).status == 200
    now[0] = 150.0
    refused = meter.charge("a", 1)
    assert (refused.status, refused.retry_after) == (429, 30)
    assert meter.charge("b", 1).status == 200
    banned = meter.charge("a", 1)
    assert (banned.status, banned.retry_after) == (418, 100)
    now[0] = 249.0
    assert meter.charge("a", 1).status == 418
    now[0] = 251.0
    assert meter.charge("a", 1).status == 200
    assert [meter.charge("a", 20).status, meter.charge("a", 1).retry_after] == [429, 200]


async def test_the_archive_answers_ranges(exchange, http):
    url = f"{exchange.archive_url}/data/spot/daily/aggTrades/ETHUSDT/ETHUSDT-aggTrades-2024-01-02.zip"
    async with http.get(url) as response:
        whole, etag = await response.read(), response.headers["ETag"]
        assert response.headers["Content-Type"] == "application/octet-stream"
    cases = {"bytes=10-19": whole[10:20], "bytes=100-": whole[100:], "bytes=-7": whole[-7:]}
    for wanted, expected in cases.items():
        async with http.get(url, headers={"Range": wanted, "If-Range": etag}) as response:
            assert response.status == 206
            assert await response.read() == expected
            assert response.headers["Content-Range"].endswith(f"/{len(whole)}")
    async with http.get(url, headers={"Range": "bytes=5-", "If-Range": '"other"'}) as response:
        assert (response.status, await response.read()) == (200, whole)
    async with http.get(url, headers={"Range": f"bytes={len(whole)}-"}) as response:
        assert response.status == 416
    async with http.get(url, headers={"If-None-Match": etag}) as response:
        assert response.status == 304
    async with http.head(url) as response:
        assert int(response.headers["Content-Length"]) == len(whole)
    async with http.get(url.replace("2024-01-02", "2024-01-03")) as response:
        assert response.status == 404
        assert "NoSuchKey" in await response.text()
