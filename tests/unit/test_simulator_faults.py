"""Every fault does what it says, where it says, as often as it says."""

import hashlib
import io
import time
import zipfile
from datetime import UTC, date, datetime

import aiohttp
import pytest

from streamforge_assets.simulator import faults as f
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.server import SimulatedExchange

CONFIG = SimulatorConfig(symbols=2, seed=5, trades_scale=0.05, now=datetime(2024, 1, 3, 12, tzinfo=UTC))
DAY = date(2024, 1, 2)
MIDNIGHT = 1704153600000
FILE = "/data/spot/daily/aggTrades/ETHUSDT/ETHUSDT-aggTrades-2024-01-02.zip"
CANDLES = "/data/spot/daily/klines/ETHUSDT/5m/ETHUSDT-5m-2024-01-02.zip"


@pytest.fixture
async def exchange(tmp_path):
    async with SimulatedExchange(CONFIG, tmp_path) as running:
        yield running


@pytest.fixture
def fetch(exchange, http):
    async def ask(path, base=None):
        async with http.get((base or exchange.archive_url) + path) as response:
            return response.status, await response.read()

    return ask


def ids(content: bytes) -> list[int]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [int(line.split(",")[0]) for line in archive.read(archive.namelist()[0]).decode().splitlines()]


def true_ids(exchange) -> list[int]:
    return exchange.market.trades("ETHUSDT", DAY)["trade_id"].to_pylist()


async def test_rate_limit_ban_and_server_error_strike_as_often_as_asked(exchange, http):
    url = exchange.rest_url + "/api/v3/time"
    for fault, status, wait in (
        (f.RateLimit(retry_after=3, times=2), 429, "3"),
        (f.Ban(retry_after=9, times=2), 418, "9"),
        (f.ServerError(status=502, times=2), 502, None),
    ):
        exchange.faults.add(fault)
        seen = []
        for _ in range(3):
            async with http.get(url) as response:
                seen.append(response.status)
                if response.status != 200:
                    assert response.headers.get("Retry-After") == wait
        assert seen == [status, status, 200]


async def test_a_fault_strikes_only_where_it_says(exchange, fetch):
    exchange.faults.add(f.ServerError(where="archive", path="*/aggTrades/*.zip", symbol="ETHUSDT", day=DAY))
    assert (await fetch(FILE))[0] == 503
    assert (await fetch(FILE + ".CHECKSUM"))[0] == 200
    assert (await fetch(CANDLES))[0] == 200
    assert (await fetch(FILE.replace("ETH", "BTC")))[0] == 200
    assert (await fetch(FILE.replace("01-02", "01-01")))[0] == 200
    assert (await fetch("/api/v3/time", exchange.rest_url))[0] == 200
    exchange.faults.clear()
    assert (await fetch(FILE))[0] == 200


async def test_a_reset_cuts_the_body(exchange, fetch):
    exchange.faults.add(f.Reset(share=0.5, times=1))
    with pytest.raises(aiohttp.ClientError):
        await fetch(FILE)
    assert ids((await fetch(FILE))[1]) == true_ids(exchange)


async def test_a_slow_answer_is_late(exchange, fetch):
    exchange.faults.add(f.Slow(seconds=0.3, times=1))
    begin = time.monotonic()
    assert (await fetch(FILE))[0] == 200
    assert time.monotonic() - begin >= 0.3


async def test_a_missing_file_and_its_checksum_are_missing(exchange, fetch):
    exchange.faults.add(f.MissingFile(path="*/aggTrades/*"))
    assert (await fetch(FILE))[0] == 404
    assert (await fetch(FILE + ".CHECKSUM"))[0] == 404
    assert (await fetch(CANDLES))[0] == 200


async def test_a_truncated_zip_and_a_wrong_checksum_disagree(exchange, fetch):
    for fault in (f.TruncatedZip(), f.WrongChecksum()):
        exchange.faults.add(fault)
        _, content = await fetch(FILE)
        _, sums = await fetch(FILE + ".CHECKSUM")
        assert hashlib.sha256(content).hexdigest() != sums.decode().split()[0]
        exchange.faults.clear()


@pytest.mark.parametrize("checksum_first", [True, False])
@pytest.mark.parametrize(
    ("fault", "change"),
    [
        (f.DroppedTrades(rows=5, position=0, times=1), lambda t: t[5:]),
        (f.DoubledTrades(rows=2, position=0, times=1), lambda t: [t[0], t[0], t[1], t[1], *t[2:]]),
        (f.ReorderedTrades(rows=3, position=1, times=1), lambda t: [*t[:-3], t[-1], t[-2], t[-3]]),
        (f.Republished(rows=4, position=1, times=1), lambda t: t[:-4]),
    ],
)
async def test_a_wrongly_made_file_has_its_own_checksum(exchange, fetch, fault, change, checksum_first):
    truth = true_ids(exchange)
    exchange.faults.add(fault)
    for expected in (change(truth), truth):
        if checksum_first:
            _, sums = await fetch(FILE + ".CHECKSUM")
            _, content = await fetch(FILE)
        else:
            _, content = await fetch(FILE)
            _, sums = await fetch(FILE + ".CHECKSUM")
        assert hashlib.sha256(content).hexdigest() == sums.decode().split()[0]
        assert ids(content) == expected


async def test_missing_candles_are_missing_from_archive_and_rest(exchange, fetch, http):
    hole = {"start": datetime(2024, 1, 2, 1, tzinfo=UTC), "end": datetime(2024, 1, 2, 2, tzinfo=UTC)}
    exchange.faults.add(f.MissingCandles(**hole))
    gone = set(range(MIDNIGHT + 3_600_000, MIDNIGHT + 7_200_000, 300_000))
    assert not gone & set(ids((await fetch(CANDLES))[1]))
    query = {"symbol": "ETHUSDT", "interval": "5m", "startTime": MIDNIGHT}
    async with http.get(exchange.rest_url + "/api/v3/klines", params=query) as response:
        assert not gone & {row[0] for row in await response.json()}
    assert ids((await fetch(FILE))[1]) == true_ids(exchange)


async def test_trade_faults_reach_rest_pages_and_count_only_pages_that_show_them(exchange, http):
    truth = true_ids(exchange)
    number = exchange.faults.add(f.DroppedTrades(where="rest", day=DAY, rows=3, position=1, times=1))

    async def page(first, limit):
        query = {"symbol": "ETHUSDT", "fromId": first, "limit": limit}
        async with http.get(exchange.rest_url + "/api/v3/aggTrades", params=query) as response:
            return [t["a"] for t in await response.json()]

    assert await page(truth[0], 5) == truth[:5]
    assert exchange.faults.entries()[0].hits == {}
    assert await page(truth[-5], 4) == [*truth[-5:-3], truth[-1] + 1, truth[-1] + 2]
    assert exchange.faults.entries()[0].hits == {"rest": 1}
    assert await page(truth[-5], 5) == truth[-5:]
    assert exchange.faults.remove(number)


async def test_an_outage_is_part_of_the_truth(exchange, fetch):
    before = ids((await fetch(FILE))[1])
    outage = f.Outage(start=datetime(2024, 1, 2, 3), end=datetime(2024, 1, 2, 5))  # noqa: DTZ001
    exchange.faults.add(outage)
    after = ids((await fetch(FILE))[1])
    assert len(after) < len(before)
    assert after == true_ids(exchange) == list(range(before[0], before[0] + len(after)))
    exchange.faults.clear()
    assert ids((await fetch(FILE))[1]) == before


async def test_the_admin_door(exchange, http):
    url = exchange.rest_url + "/admin/faults"
    async with http.post(url, json={"kind": "slow", "seconds": 0.01, "times": 1}) as response:
        assert response.status == 201
        number = (await response.json())["number"]
    for wrong in ({"kind": "nonsense"}, {"kind": "slow", "second": 1}):
        async with http.post(url, json=wrong) as response:
            assert response.status == 400
    async with http.get(exchange.archive_url + FILE) as response:
        await response.read()
    async with http.get(url) as response:
        (entry,) = await response.json()
        assert (entry["number"], entry["fault"]["kind"], entry["hits"]) == (number, "slow", {"zip": 1})
    async with http.delete(f"{url}/{number}") as response:
        assert response.status == 200
    async with http.delete(f"{url}/{number}") as response:
        assert response.status == 404
    async with http.get(exchange.rest_url + "/admin/stats") as response:
        stats = await response.json()
    assert stats["downloads"] == {FILE: 1}
    assert stats["requests"] == 1


async def test_faults_from_the_configuration_are_in_force():
    config = CONFIG.model_copy(update={"faults": (f.ServerError(),)})
    async with (
        SimulatedExchange(config) as exchange,
        aiohttp.ClientSession() as http,
        http.get(exchange.rest_url + "/api/v3/ping") as response,
    ):
        assert response.status == 503
