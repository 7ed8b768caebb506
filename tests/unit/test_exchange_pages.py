"""The exchange client's answers against a scripted server: times, symbols, ranges of many pages, paging traps."""

from datetime import UTC, datetime, timedelta

import pytest

from resources.errors import Rejected
from resources.exchange.binance import BinanceExchange
from tests.unit.scripted import FIVE, MS, START, Server, agg, kline, rows, status

pytestmark = pytest.mark.usefixtures("no_waiting")


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
