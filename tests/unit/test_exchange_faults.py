"""The exchange client against a scripted server that refuses, limits, bans, breaks, or is not there."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from resources.errors import RateLimited, Rejected, Unavailable
from resources.exchange import open_exchange
from resources.exchange.binance import BinanceExchange
from tests.unit.scripted import Server, Wait, config, rows, status

pytestmark = pytest.mark.usefixtures("no_waiting")


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


async def test_an_exchange_that_does_not_serve_this_country_is_one_that_cannot_be_reached(
    server: Server, exchange: BinanceExchange
) -> None:
    """Its archive is open to all, so nothing may end because of it."""
    server.script["/api/v3/aggTrades"] = [status(451, {"code": 0, "msg": "Service unavailable"})] * 9
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"cannot be reached \(it does not serve the country .* 451"):
            await exchange.first_trade("BTCUSDT")
    assert len(server.asked("/api/v3/aggTrades")) == 1


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
