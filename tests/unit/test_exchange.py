"""The exchange client against a scripted server on a real socket: faults, limits, resumption, paging traps."""

import asyncio
import hashlib
import io
import json
import logging
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import stamina
from aiohttp import web

from resources.datasets import TRADES, candles
from resources.errors import RateLimited, Rejected, Unavailable
from resources.exchange import open_exchange
from resources.exchange.archive import archive_path
from resources.exchange.binance import BinanceExchange
from resources.records import CANDLE, TRADE
from resources.settings import Settings, load_settings
from tests.real_data import real_archive

DAY = date(2024, 8, 1)
START = datetime(2024, 8, 1, tzinfo=UTC)
MS = 1722470400000
FIVE = candles("5m")
ZIP = "/" + archive_path(TRADES, "BTCUSDT", DAY)

Handler = Callable[[web.Request], object]


class Server:
    """Answers requests from a truth, or from a script of answers per path that comes first."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.script: dict[str, list[Handler]] = {}
        self.files: dict[str, bytes] = {}
        self.limit = 6000
        self.used = 0
        self.trades = [(i, MS - 60_000 + i * 50) for i in range(3500)]  # 20 a second, from a minute before START
        self.url = ""

    def asked(self, path: str) -> list[web.Request]:
        return [request for request in self.requests if request.path == path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        scripted = self.script.get(request.path)
        if scripted:
            answer = scripted.pop(0)(request)
            answer = await answer if asyncio.iscoroutine(answer) else answer
            if answer is not None:
                return answer
        name = request.path.removeprefix("/api/v3/")
        if request.path.startswith("/api/v3/"):
            self.used += {"exchangeInfo": 20, "klines": 2, "aggTrades": 4}.get(name, 1)
            body = json.dumps(getattr(self, name)(request.query)).encode()
            return web.Response(body=body, headers={"X-MBX-USED-WEIGHT-1M": str(self.used)})
        return self.file(request)

    def file(self, request: web.Request) -> web.Response:
        body = self.files.get(request.path)
        if body is None:
            return web.Response(status=404)
        headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        asked = request.headers.get("Range")
        if asked and request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
            first = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            return web.Response(status=206, body=body[first:], headers=headers)
        return web.Response(body=body, headers=headers)

    def time(self, query: object) -> object:
        return {"serverTime": int(datetime.now(UTC).timestamp() * 1000)}

    def exchangeInfo(self, query: object) -> object:  # noqa: N802 - the wire's name
        limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self.limit}
        names = [("ETHUSDT", "TRADING"), ("BTCUSDT", "TRADING"), ("OLDUSDT", "BREAK")]
        return {"rateLimits": [limit], "symbols": [{"symbol": n, "status": s} for n, s in names]}

    def klines(self, query) -> object:
        start, end = int(query["startTime"]), int(query["endTime"])
        opens = range(start, end + 1, 300_000)[: int(query["limit"])]
        return [kline(t) for t in opens if t != MS + 600_000]

    def aggTrades(self, query) -> object:  # noqa: N802 - the wire's name
        first, since = int(query.get("fromId", 0)), int(query.get("startTime", 0))
        rows = [agg(i, t) for i, t in self.trades if i >= first and t >= since]
        return rows[: int(query["limit"])]

    def publish(self, body: bytes, path: str = ZIP) -> None:
        self.files[path] = body
        self.files[path + ".CHECKSUM"] = f"{hashlib.sha256(body).hexdigest()}  {Path(path).name}\n".encode()


SERVER = web.AppKey("server", Server)


def agg(i: int, t: int) -> dict[str, object]:
    return {"a": i, "p": "10.5", "q": "2", "f": i, "l": i, "T": t, "m": True, "M": True}


def kline(t: int) -> list[object]:
    return [t, "10", "12", "9", "11", "3", t + 299_999, "33", 4, "1", "11", "0"]


def day_zip(rows: int = 2000, price: str = "10.5") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        out.writestr("x.csv", "".join(f"{i},{price},2,{i},{i},{MS + i},True,True\n" for i in range(rows)))
    return buffer.getvalue()


def status(code: int, body: object = None, **headers: str) -> Handler:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda request: web.Response(status=code, body=json.dumps(body).encode(), headers=named)


def cut_after(part: int) -> Handler:
    """Announce the whole body, send the first bytes, and reset the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        server = request.app[SERVER]
        whole = server.file(request)
        body = bytes(whole.body)
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[:part])
        await asyncio.sleep(0.02)
        request.transport.abort()
        return response

    return answer


class Wait:
    """A clock that goes on by itself, and jumps instead of sleeping."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return datetime.now(UTC).timestamp() + self.ahead

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.ahead += seconds
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    app = web.Application()
    app[SERVER] = server
    app.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _no_waiting():
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(Server()) as running:
        yield running


@pytest.fixture
def wait() -> Wait:
    return Wait()


def config(url: str, home: Path, **more: object) -> Settings:
    return load_settings(
        **{"exchange": "binance", "rest_url": url, "archive_url": url, "home": home, "request_timeout": 2.0} | more
    )


@pytest.fixture
async def exchange(server: Server, tmp_path: Path, wait: Wait) -> AsyncIterator[BinanceExchange]:
    async with BinanceExchange(config(server.url, tmp_path), clock=wait, sleep=wait.sleep) as opened:
        yield opened


async def rows(pages: AsyncIterator[pa.Table], column: str) -> list[object]:
    found: list[object] = []
    async for page in pages:
        assert page.schema in (TRADE.schema, CANDLE.schema)
        assert page.num_rows
        found += page[column].to_pylist()
    return found


# --- answers ------------------------------------------------------------------------------------------------


async def test_symbols_time_and_first_trade(server: Server, exchange: BinanceExchange) -> None:
    assert await exchange.symbols() == ["BTCUSDT", "ETHUSDT"]
    assert abs((await exchange.now() - datetime.now(UTC)).total_seconds()) < 1
    assert await exchange.first_trade("BTCUSDT") == START - timedelta(minutes=1)
    server.trades = []
    assert await exchange.first_trade("BTCUSDT") is None


async def test_candles_of_many_pages_with_a_hole(exchange: BinanceExchange) -> None:
    opens = await rows(exchange.candles(FIVE, "BTCUSDT", START, START + timedelta(days=10)), "open_time")
    assert len(opens) == 2879
    assert START + timedelta(minutes=10) not in opens


async def test_a_candle_that_has_not_closed_is_left_out(exchange: BinanceExchange) -> None:
    now = datetime.now(UTC)
    begin = now.replace(minute=now.minute // 5 * 5, second=0, microsecond=0) - timedelta(minutes=10)
    opens = await rows(exchange.candles(FIVE, "BTCUSDT", begin, begin + timedelta(hours=1)), "open_time")
    assert opens[:2] == [begin, begin + timedelta(minutes=5)]
    assert max(opens) <= datetime.now(UTC) - timedelta(minutes=5)


async def test_trades_of_a_range_over_several_pages(exchange: BinanceExchange) -> None:
    ids = await rows(exchange.trades("BTCUSDT", START, START + timedelta(seconds=110)), "trade_id")
    assert ids == list(range(1200, 3400))


@pytest.mark.parametrize("answer", [1201, 1900, 3400], ids=lambda found: f"search finds {found}")
async def test_the_first_trade_of_a_range_is_not_missed(
    server: Server, exchange: BinanceExchange, answer: int
) -> None:
    """The search by time has answered with later trades; the start of the day would silently be lost."""
    server.script["/api/v3/aggTrades"] = [status(200, [agg(*server.trades[answer])])]
    ids = await rows(exchange.trades("BTCUSDT", START, START + timedelta(seconds=110)), "trade_id")
    assert ids == list(range(1200, 3400))


async def test_ids_that_the_exchange_lacks_do_not_hide_the_start(
    server: Server, exchange: BinanceExchange
) -> None:
    server.trades = [(i, t) for i, t in server.trades if not 200 <= i < 1300]
    assert (await rows(exchange.trades("BTCUSDT", START, START + timedelta(seconds=8)), "trade_id"))[0] == 1300
    server.trades = server.trades[200:]
    assert (await rows(exchange.trades("BTCUSDT", START, START + timedelta(seconds=8)), "trade_id"))[0] == 1300


async def test_trades_by_id(exchange: BinanceExchange) -> None:
    assert await rows(exchange.trades_by_id("BTCUSDT", 5, 2004), "trade_id") == list(range(5, 2005))
    assert await rows(exchange.trades_by_id("BTCUSDT", 3499, 9999), "trade_id") == [3499]


# --- paging traps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        [agg(5, MS), agg(5, MS)],
        [agg(6, MS), agg(5, MS)],
        [agg(4, MS)],
        [agg(5, MS), agg(6, MS - 1)],
        [agg(5, MS), {"a": 6}],
        {"not": "a list"},
    ],
    ids=["doubled", "reordered", "not asked for", "time goes back", "incomplete row", "no list"],
)
async def test_a_wrong_page_is_asked_for_again_and_then_rejected(
    server: Server, exchange: BinanceExchange, page: object
) -> None:
    wrong = status(200, page)
    server.script["/api/v3/aggTrades"] = [wrong, wrong]
    assert await rows(exchange.trades_by_id("BTCUSDT", 5, 6), "trade_id") == [5, 6]
    server.script["/api/v3/aggTrades"] = [wrong] * 9
    with pytest.raises(Rejected, match="wrong answer"):
        await rows(exchange.trades_by_id("BTCUSDT", 5, 6), "trade_id")


async def test_a_server_that_repeats_a_page_does_not_hold_us(server: Server, exchange: BinanceExchange) -> None:
    server.aggTrades = lambda query: [agg(i, MS + i) for i in range(1000)]
    with pytest.raises(Rejected, match="asked from 1000"):
        await rows(exchange.trades_by_id("BTCUSDT", 0, 5000), "trade_id")
    server.klines = lambda query: [kline(MS), kline(MS + 300_000)]
    with pytest.raises(Rejected, match="wrong answer"):
        await rows(exchange.candles(FIVE, "BTCUSDT", START, START + timedelta(days=1)), "open_time")


# --- refusals and faults ------------------------------------------------------------------------------------


async def test_a_refused_request_tells_the_exchanges_words_and_is_not_repeated(
    server: Server, exchange: BinanceExchange
) -> None:
    server.script["/api/v3/aggTrades"] = [status(400, {"code": -1121, "msg": "Invalid symbol."})]
    with pytest.raises(Rejected, match=r"code -1121: Invalid symbol\."):
        await exchange.first_trade("NOSUCH")
    assert len(server.asked("/api/v3/aggTrades")) == 1


@pytest.mark.parametrize("code", [429, 418])
async def test_a_short_refusal_is_waited_for(
    server: Server, exchange: BinanceExchange, wait: Wait, code: int
) -> None:
    await exchange.symbols()
    server.script["/api/v3/aggTrades"] = [status(code, Retry_After="7")]
    assert await exchange.first_trade("BTCUSDT")
    assert sum(wait.slept) == pytest.approx(7, abs=0.5)


async def test_a_ban_is_remembered_by_the_next_process(
    server: Server, exchange: BinanceExchange, tmp_path: Path, wait: Wait
) -> None:
    await exchange.symbols()
    server.script["/api/v3/aggTrades"] = [status(418, Retry_After="7200")]
    with pytest.raises(RateLimited) as caught:
        await exchange.first_trade("BTCUSDT")
    assert caught.value.retry_after == 7200
    count = len(server.requests)
    async with BinanceExchange(config(server.url, tmp_path), clock=wait, sleep=wait.sleep) as restarted:
        with pytest.raises(RateLimited, match="banned"):
            await restarted.symbols()
        assert len(server.requests) == count
        wait.ahead += 7201
        assert await restarted.symbols()


async def test_faults_that_pass_are_outlived(server: Server, exchange: BinanceExchange) -> None:
    async def reset(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1000
        await response.prepare(request)
        await response.write(b"[{")
        request.transport.abort()
        return response

    server.script["/api/v3/aggTrades"] = [status(500), reset, status(503)]
    assert await rows(exchange.trades_by_id("BTCUSDT", 5, 6), "trade_id") == [5, 6]


async def test_a_server_that_stays_broken_is_unavailable(server: Server, exchange: BinanceExchange) -> None:
    server.script["/api/v3/aggTrades"] = [status(502)] * 9
    with pytest.raises(Unavailable, match=r"stays broken .* 502"):
        await exchange.first_trade("BTCUSDT")
    assert len(server.asked("/api/v3/aggTrades")) == 4
    server.script.clear()
    assert await exchange.first_trade("BTCUSDT")


async def test_a_silent_server_is_given_up(server: Server, tmp_path: Path) -> None:
    async def silence(request: web.Request) -> None:
        await asyncio.sleep(0.3)

    server.script["/api/v3/time"] = [silence] * 9
    async with BinanceExchange(config(server.url, tmp_path, request_timeout=0.05)) as exchange:
        with pytest.raises(Unavailable, match=r"no data for 0\.05 seconds"):
            await exchange.now()


async def test_an_unreachable_host_is_told_once_and_remembered(
    tmp_path: Path, wait: Wait, caplog: pytest.LogCaptureFixture, unused_tcp_port_factory: Callable[[], int]
) -> None:
    settings = config(f"http://127.0.0.1:{unused_tcp_port_factory()}", tmp_path)
    with caplog.at_level(logging.WARNING, "streamforge.exchange"):
        async with BinanceExchange(settings, clock=wait, sleep=wait.sleep) as exchange:
            for _ in range(30):
                with pytest.raises(Unavailable, match="cannot be reached"):
                    await exchange.first_trade("BTCUSDT")
                wait.ahead += 1
        async with BinanceExchange(settings, clock=wait, sleep=wait.sleep) as exchange:
            with pytest.raises(Unavailable, match="cannot be reached"):
                await exchange.symbols()
    assert len(caplog.records) == 1


async def test_a_host_that_returns_is_found_again(tmp_path: Path, wait: Wait, server: Server) -> None:
    settings = config(server.url, tmp_path)
    async with BinanceExchange(settings, clock=wait, sleep=wait.sleep) as exchange:
        state = exchange._http.state
        with state.change() as shared:
            host = server.url.removeprefix("http://")
            shared.silent[f"the REST API {host}"] = (wait() + 300, wait() + 15, "it was away")
        with pytest.raises(Unavailable, match="it was away"):
            await exchange.symbols()
        wait.ahead += 16
        assert await exchange.symbols()
        assert not state.read().silent


async def test_many_callers_never_use_more_than_the_weight_of_a_minute(
    server: Server, tmp_path: Path, wait: Wait
) -> None:
    """Requests that are under way when the minute ends are counted in the next one: 0 answers 429."""
    server.limit = 100
    counted = Counter[int]()

    def count(request: web.Request) -> None:
        counted[int(wait() // 60)] += 4

    server.time = lambda query: {"serverTime": int(wait() * 1000)}
    async with BinanceExchange(config(server.url, tmp_path, weight_share=1.0), clock=wait, sleep=wait.sleep) as ex:
        await ex.now()
        server.script["/api/v3/aggTrades"] = [count] * 99
        await asyncio.gather(*(ex.first_trade("BTCUSDT") for _ in range(60)))
    assert sum(counted.values()) == 240
    assert max(counted.values()) <= 100
    assert wait.slept


async def test_closing_twice_is_harmless_and_a_closed_exchange_says_so(tmp_path: Path) -> None:
    exchange = open_exchange(config("http://127.0.0.1:1", tmp_path))
    with pytest.raises(Rejected, match="not open"):
        await exchange.now()
    async with exchange:
        await exchange.__aexit__(None, None, None)
    assert not (tmp_path / "downloads").exists()


# --- the archive --------------------------------------------------------------------------------------------


async def archived(exchange: BinanceExchange) -> list[object] | None:
    async with exchange.archive_file(TRADES, "BTCUSDT", DAY) as file:
        if file is None:
            return None
        assert file.path.stat().st_size == file.bytes
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.checksum
        return pa.concat_tables(file.tables())["price"].to_pylist()


def left(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "downloads").iterdir())


async def test_a_day_is_downloaded_verified_and_removed(
    server: Server, exchange: BinanceExchange, tmp_path: Path
) -> None:
    server.publish(day_zip())
    assert await archived(exchange) == [10.5] * 2000
    assert left(tmp_path) == []
    assert await exchange.archive_checksum(TRADES, "BTCUSDT", DAY) == hashlib.sha256(day_zip()).hexdigest()


async def test_a_day_that_is_not_there_is_none(server: Server, exchange: BinanceExchange) -> None:
    assert await archived(exchange) is None
    assert await exchange.archive_checksum(FIVE, "BTCUSDT", DAY) is None


@pytest.mark.parametrize("lacks", ["", ".CHECKSUM"])
async def test_half_of_a_pair_counts_as_absent_with_a_warning(
    server: Server, exchange: BinanceExchange, caplog: pytest.LogCaptureFixture, lacks: str
) -> None:
    server.publish(day_zip())
    del server.files[ZIP + lacks]
    assert await archived(exchange) is None
    assert "BTCUSDT-aggTrades-2024-08-01.zip" in caplog.text


async def test_an_interrupted_download_resumes(server: Server, exchange: BinanceExchange) -> None:
    server.publish(day_zip())
    server.script[ZIP] = [cut_after(30_000), cut_after(20_000)]
    assert await archived(exchange) == [10.5] * 2000
    ranges = [request.headers.get("Range") for request in server.asked(ZIP)]
    assert ranges == [None, "bytes=30000-", "bytes=50000-"]
    assert server.asked(ZIP)[1].headers["If-Range"].startswith('"')


async def test_a_download_resumes_in_the_next_process(
    server: Server, exchange: BinanceExchange, tmp_path: Path
) -> None:
    server.publish(day_zip())
    server.script[ZIP] = [cut_after(30_000)] + [status(500)] * 3
    with pytest.raises(Unavailable):
        await archived(exchange)
    async with BinanceExchange(config(server.url, tmp_path)) as restarted:
        assert await archived(restarted) == [10.5] * 2000
    assert server.asked(ZIP)[-1].headers["Range"] == "bytes=30000-"
    assert left(tmp_path) == []


async def test_a_file_published_again_meanwhile_is_fetched_anew(server: Server, exchange: BinanceExchange) -> None:
    server.publish(day_zip())
    cut = cut_after(30_000)

    async def republish(request: web.Request) -> web.StreamResponse:
        answer = await cut(request)
        server.publish(day_zip(price="99"))
        return answer

    server.script[ZIP] = [republish]
    assert await archived(exchange) == [99.0] * 2000


async def test_a_content_that_never_fits_its_checksum_is_rejected(
    server: Server, exchange: BinanceExchange, tmp_path: Path
) -> None:
    server.publish(day_zip())
    server.files[ZIP] = day_zip(price="99")
    with pytest.raises(Rejected, match=r"aggTrades-2024-08-01\.zip is broken .* 3 downloads"):
        await archived(exchange)
    assert len(server.asked(ZIP)) == 3
    assert left(tmp_path) == []


async def test_a_wrong_answer_is_outlived(server: Server, exchange: BinanceExchange) -> None:
    server.publish(day_zip())
    server.script[ZIP] = [lambda request: web.Response(body=day_zip()[:500])]
    server.script[ZIP + ".CHECKSUM"] = [lambda request: web.Response(text="<html>busy</html>"), status(503)]
    assert await archived(exchange) == [10.5] * 2000


async def test_two_who_want_the_same_day_do_no_harm(server: Server, exchange: BinanceExchange) -> None:
    server.publish(day_zip())
    assert await asyncio.gather(*(archived(exchange) for _ in range(4))) == [[10.5] * 2000] * 4


async def test_a_symbol_cannot_leave_the_archive(exchange: BinanceExchange) -> None:
    for symbol in ("../../etc", "btc usdt", ""):
        with pytest.raises(Rejected, match="not a symbol"):
            await exchange.archive_checksum(TRADES, symbol, DAY)


async def test_a_missing_archive_folder_is_one_sentence(tmp_path: Path) -> None:
    async with BinanceExchange(config("http://x", tmp_path, archive_url="file:///nowhere/at/all")) as exchange:
        with pytest.raises(Rejected, match=r"no archive folder /nowhere/at/all; STREAMFORGE_ARCHIVE_URL"):
            await exchange.archive_checksum(TRADES, "BTCUSDT", DAY)


async def test_a_folder_is_verified_in_place(tmp_path: Path) -> None:
    zipped = tmp_path / "archive" / ZIP[1:]
    zipped.parent.mkdir(parents=True)
    zipped.write_bytes(day_zip())
    sums = zipped.with_name(zipped.name + ".CHECKSUM")
    settings = config("http://x", tmp_path, archive_url=(tmp_path / "archive").as_uri())
    async with BinanceExchange(settings) as exchange:
        assert await archived(exchange) is None
        sums.write_text(f"{hashlib.sha256(day_zip()).hexdigest()}  {zipped.name}\n")
        assert await archived(exchange) == [10.5] * 2000
        assert zipped.exists()
        zipped.write_bytes(day_zip(price="99"))
        with pytest.raises(Rejected, match="is broken: its SHA-256"):
            await archived(exchange)


@pytest.mark.real_data
async def test_real_files_are_verified_and_read(tmp_path: Path) -> None:
    settings = config("http://x", tmp_path, archive_url=real_archive().resolve().as_uri())
    async with BinanceExchange(settings) as exchange:
        async with exchange.archive_file(TRADES, "XRPETH", date(2019, 10, 11)) as file:
            table = pa.concat_tables(file.tables())
        assert table["trade_id"].to_pylist() == list(range(13519807, 13525736))
