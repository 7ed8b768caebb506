"""The simulated exchange as an HTTP server: Binance's REST API, its archive, and a door for faults."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from aiohttp import web
from pydantic import ValidationError

from resources.datasets import midnight, to_ms
from streamforge_assets.simulator.archive import Archive, checksum, locate
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.faults import (
    Ban,
    FaultBook,
    HttpFault,
    MissingFile,
    RateLimit,
    Reset,
    ServerError,
    Slow,
    Target,
    TruncatedZip,
    WrongChecksum,
    parse_fault,
)
from streamforge_assets.simulator.history import MarketHistory
from streamforge_assets.simulator.rest import WEIGHTS, ApiError, RestApi
from streamforge_assets.simulator.weights import WeightMeter

SERVICE = "streamforge-simulator"
"""How `/health` names this server."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Stats:
    """What has been asked: requests and answers by status, weight charged, downloads by archive path.

    `downloads` counts answers that carry (part of) an archive file, those that a fault spoilt included.
    """

    requests: int = 0
    weight: int = 0
    most_used: int = 0
    refused: int = 0
    banned: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)
    downloads: Counter[str] = field(default_factory=Counter)


class SimulatedExchange:
    """A simulated exchange on a local port.

        async with SimulatedExchange(SimulatorConfig(), folder) as exchange:
            exchange.rest_url, exchange.archive_url

    Args:
        config: the exchange.
        folder: where made files are kept; None to keep nothing on disk.
        port: 0 for any free one.

    Attributes:
        market: the truth, faults not considered (outages are part of it).
        faults: the faults in force; add and clear them at any time.
        stats: what has been asked so far.
    """

    def __init__(
        self,
        config: SimulatorConfig,
        folder: Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.config = config
        self.market = MarketHistory(config, folder)
        self.faults = FaultBook(config.faults, self._outages_changed)
        self.stats = Stats()
        self._archive = Archive(self.market, folder)
        self._rest = RestApi(self.market, self.faults)
        self._meter = WeightMeter(config.weight_limit, config.ban_after, config.ban_seconds)
        self._host, self._port = host, port
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="simulator")
        self._making: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return f"http://{self._host}:{self._port}"

    @property
    def rest_url(self) -> str:
        """Base URL of the REST API: paths below begin with `/api/v3`."""
        return self.url

    @property
    def archive_url(self) -> str:
        """Base URL of the archive: paths below begin with `/data/spot`."""
        return f"{self.url}/archive"

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError when the port is taken."""
        self._runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self.__aexit__()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop listening and cut what is still open."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    def application(self) -> web.Application:
        """The routes, for a server of one's own."""
        app = web.Application(middlewares=[self._watched])
        app.router.add_get("/health", self._health)
        app.router.add_get("/api/v3/ping", self._ping)
        app.router.add_get("/api/v3/time", self._time)
        app.router.add_get("/api/v3/exchangeInfo", self._answered(self._rest.exchange_info))
        app.router.add_get("/api/v3/klines", self._answered(self._rest.klines))
        app.router.add_get("/api/v3/aggTrades", self._answered(self._rest.agg_trades))
        app.router.add_get("/archive/{path:.*}", self._file)
        app.router.add_get("/admin/faults", self._list_faults)
        app.router.add_post("/admin/faults", self._add_fault)
        app.router.add_delete("/admin/faults", self._clear_faults)
        app.router.add_delete("/admin/faults/{number:[0-9]+}", self._remove_fault)
        app.router.add_get("/admin/stats", self._show_stats)
        return app

    @web.middleware
    async def _watched(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Count, charge, and let the faults of the answer strike."""
        path = request.path
        if not path.startswith(("/api/", "/archive/")):
            return await handler(request)
        self.stats.requests += 1
        self.stats.paths[path] += 1
        headers: dict[str, str] = {}
        response: web.StreamResponse | None = None
        if path.startswith("/api/"):
            weight = WEIGHTS.get(path, 1)
            verdict = self._meter.charge(request.remote or "", weight)
            self.stats.weight += weight
            self.stats.most_used = max(self.stats.most_used, verdict.used)
            headers = {"X-MBX-USED-WEIGHT": str(verdict.used), "X-MBX-USED-WEIGHT-1M": str(verdict.used)}
            if verdict.status != 200:
                response = _refusal(verdict.status, verdict.retry_after)
        if response is None:
            response = await self._struck(request, self.faults.http(self._target(request)), handler)
        response.headers.update(headers)
        self.stats.statuses[response.status] += 1
        self.stats.refused += response.status == 429
        self.stats.banned += response.status == 418
        return response

    async def _struck(
        self, request: web.Request, faults: list[HttpFault], handler: _Handler
    ) -> web.StreamResponse:
        for fault in faults:
            if isinstance(fault, Slow):
                await asyncio.sleep(fault.seconds)
            elif isinstance(fault, RateLimit):
                return _refusal(429, fault.retry_after)
            elif isinstance(fault, Ban):
                return _refusal(418, fault.retry_after)
            elif isinstance(fault, ServerError):
                return web.Response(status=fault.status, text="<html>upstream is unhappy</html>")
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text)
        for fault in faults:
            if isinstance(fault, Reset) and isinstance(response, web.Response):
                return await _cut(request, response, fault.share)
        return response

    def _target(self, request: web.Request) -> Target:
        path = request.path
        if path.startswith("/archive/"):
            located = locate(path.removeprefix("/archive"))
            if located is None:
                return Target("zip", path)
            file, is_checksum = located
            return Target("checksum" if is_checksum else "zip", path, file.symbol, file.day, file.dataset)
        start = request.query.get("startTime", "")
        usable = start.isdigit() and len(start) <= 13
        day = datetime.fromtimestamp(int(start) / 1000, UTC).date() if usable else None
        dataset = {"/api/v3/klines": "candles", "/api/v3/aggTrades": "trades"}.get(path, "")
        return Target("rest", path, request.query.get("symbol"), day, dataset)

    def _answered(self, answer: Callable[[web.Request.query], bytes]) -> _Handler:  # type: ignore[valid-type]
        async def handle(request: web.Request) -> web.Response:
            loop = asyncio.get_running_loop()
            try:
                body = await loop.run_in_executor(self._threads, answer, request.query)
            except ApiError as error:
                return web.Response(status=400, body=error.body, content_type="application/json")
            return web.Response(body=body, content_type="application/json")

        return handle

    async def _file(self, request: web.Request) -> web.Response:
        located = locate("/" + request.match_info["path"])
        if located is None or not self._archive.has(located[0]):
            return _no_such_key()
        file, is_checksum = located
        target = self._target(request)
        spoilt = self.faults.file(target)
        if any(isinstance(fault, MissingFile) for fault in spoilt):
            return _no_such_key()
        entries = self.faults.data(target)
        for entry, _fault in entries:
            self.faults.count(entry, target)
        faults = [fault for _entry, fault in entries]
        lock = self._making.setdefault(file.path, asyncio.Lock())
        async with lock:
            content = await asyncio.get_running_loop().run_in_executor(
                self._threads,
                self._archive.content,
                file,
                faults,
            )
        for fault in spoilt:
            if isinstance(fault, TruncatedZip):
                content = content[: int(len(content) * fault.share)]
            elif isinstance(fault, WrongChecksum):
                content += b"\0"
        if is_checksum:
            content = checksum(content, f"{file.stem}.zip")
        published = midnight(file.day) + timedelta(days=1 + self.config.archive_delay, hours=4)
        response = _ranged(request, content, published)
        if response.status in (200, 206):
            self.stats.downloads["/" + request.match_info["path"]] += 1
        return response

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"service": SERVICE, "symbols": self.config.symbols, "seed": self.config.seed, "status": "ok"}
        )

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.json_response({})

    async def _time(self, _request: web.Request) -> web.Response:
        return web.json_response({"serverTime": to_ms(self.config.current())})

    async def _list_faults(self, _request: web.Request) -> web.Response:
        rows = [
            {"number": e.number, "fault": e.fault.model_dump(mode="json"), "hits": e.hits}
            for e in self.faults.entries()
        ]
        return web.json_response(rows)

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = parse_fault(await request.json())
        except (ValidationError, json.JSONDecodeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"number": self.faults.add(fault)}, status=201)

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({})

    async def _remove_fault(self, request: web.Request) -> web.Response:
        known = self.faults.remove(int(request.match_info["number"]))
        return web.json_response({}, status=200 if known else 404)

    async def _show_stats(self, _request: web.Request) -> web.Response:
        return web.json_response(vars(self.stats))

    def _outages_changed(self, outages: object) -> None:
        self.market.outages = outages  # type: ignore[assignment]  # the book passes outages


@contextlib.asynccontextmanager
async def serving(config: SimulatorConfig, folder: Path | None, port: int) -> AsyncIterator[SimulatedExchange]:
    """A simulated exchange on `port`. Raises OSError when the port is taken."""
    async with SimulatedExchange(config, folder, port=port) as exchange:
        yield exchange


def _refusal(status: int, retry_after: int | None) -> web.Response:
    text = "Too much request weight used; current limit is reached. Please wait."
    if status == 418:
        text = "Way too much request weight used; IP banned. Please wait."
    response = web.json_response({"code": -1003, "msg": text}, status=status)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def _no_such_key() -> web.Response:
    text = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>'
    return web.Response(status=404, text=text, content_type="application/xml")


def _ranged(request: web.Request, content: bytes, published: datetime) -> web.Response:
    """The content, or the part that a Range header asks for, with an ETag."""
    etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
    headers = {
        "ETag": f'"{etag}"',
        "Accept-Ranges": "bytes",
        "Last-Modified": published.strftime("%a, %d %b %Y %H:%M:%S GMT"),
    }
    if any(known.value in (etag, "*") for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    wanted = request.headers.get("Range")
    same = request.headers.get("If-Range", headers["ETag"]) in (headers["ETag"], headers["Last-Modified"])
    if wanted is None or not same:
        return web.Response(body=content, headers=headers, content_type="application/octet-stream")
    try:
        part = request.http_range
        start, stop, _ = slice(part.start, part.stop).indices(len(content))
    except ValueError:
        start = stop = 0
    if start >= stop:
        headers["Content-Range"] = f"bytes */{len(content)}"
        return web.Response(status=416, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    return web.Response(
        status=206, body=content[start:stop], headers=headers, content_type="application/octet-stream"
    )


async def _cut(request: web.Request, response: web.Response, share: float) -> web.StreamResponse:
    """Send a part of the body and drop the connection."""
    body = bytes(response.body) if isinstance(response.body, (bytes, bytearray)) else b""
    partial = web.StreamResponse(status=response.status, headers=response.headers)
    partial.content_length = len(body)
    await partial.prepare(request)
    await partial.write(body[: int(len(body) * share)])
    if request.transport is not None:
        # The part that was written has to leave before the connection is dropped.
        await asyncio.sleep(0.01)
        request.transport.abort()
    return partial
