"""What a loader says of a day's pages: it numbers them, and tells how many the connector must have seen."""

from datetime import timedelta
from types import SimpleNamespace

from resources.bus import open_bus
from resources.datasets import TRADES, Partition
from resources.exchange import open_exchange
from resources.metrics import Meter
from resources.pages import decode_day, page_number
from resources.store import open_store
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.loader import Day
from streamforge_assets.workers.loader_api_trades import load_trades
from streamforge_assets.workers.runtime import Ports, Reporter
from tests.contract.rows import DAY, trades
from tests.simulated import START, SYMBOL


def job(symbol, day):
    return Job("wf-1", "loader-producer", "l__1", TRADES, symbol, day, day + timedelta(days=1), "data", "c")


async def test_the_word_on_a_day_tells_how_many_pages_it_has(settings, exchange):
    async with open_bus(settings) as bus, open_store(settings) as store, open_exchange(settings) as source:
        ports = Ports(settings, bus, store, source)
        await load_trades(job(SYMBOL, START), ports, Reporter(bus, job(SYMBOL, START), ports.meter))
        async with bus.replay("data", {}) as replay:
            messages = [one.message for one in await replay.receive(limit=5000)]
    pages = [message for message in messages if message.headers["kind"] == "page"]
    (closing,) = [message for message in messages if message.headers["kind"] == "day"]
    assert [page_number(page) for page in pages] == list(range(len(pages)))
    assert decode_day(closing).pages == len(pages) > 0


async def test_pages_are_numbered_on_over_several_tables_and_anew_after_a_restart():
    sent = []

    class Bus:
        async def publish(self, topic, batch):
            sent.extend(batch)

    ports = SimpleNamespace(bus=Bus(), meter=Meter())
    day = Day(Partition("trades", "BTCUSDT", DAY), None, "", job("BTCUSDT", DAY), ports)
    for _ in range(2):
        await day.publish(trades(range(5)))
        await day.publish(trades([]))
        await day.publish(trades(range(5, 30_000)))
        counted = day.pages
        await day.restart()
    numbers = [page_number(message) for message in sent if message.headers["kind"] == "page"]
    assert numbers == [*range(counted), *range(counted)]
    assert counted > 2
