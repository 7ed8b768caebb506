"""An exchange that answers as a script says, on a real socket, and a client of it whose clock jumps."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import stamina
from aiohttp import web

from resources.datasets import TRADES, candles
from resources.exchange.archive import archive_path
from resources.exchange.binance import BinanceExchange
from resources.records import CANDLE, TRADE
from resources.settings import Settings, load_settings

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


def status(code: int, body: object = None, **headers: str) -> Handler:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda request: web.Response(status=code, body=json.dumps(body).encode(), headers=named)


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


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Four attempts, one right after the other."""
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
