"""One connector for several topics: each lands where it belongs, and none suffers from another."""

import asyncio
import uuid
from dataclasses import replace
from datetime import date, timedelta
from functools import partial

import pytest

from resources.datasets import TRADES, Partition
from resources.dead_letters import dead_letters, dead_topics
from resources.errors import Unavailable
from resources.live_rows import row_message
from resources.messages import EVENTS_TOPIC, decode_event
from resources.metrics import LAG, RECORDS
from resources.pages import end_message
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.workers import arango_connector
from streamforge_assets.workers.arango_connector import connect
from streamforge_assets.workers.job import Job, Route
from streamforge_assets.workers.patience import Patience
from streamforge_assets.workers.runtime import Ports, Replaced, Reporter
from tests.assets.connecting import (
    DAY,
    DEADLINE,
    FIVE,
    START,
    Failing,
    candle,
    candle_day,
    connecting,
    end,
    row,
    stored_ids,
    until,
    whole_day,
)

ETH = Partition(FIVE.name, "ETHUSDT", DAY)


@pytest.fixture
async def ports(opener, tmp_path):
    settings = Settings(home=tmp_path / "store")
    async with opener() as bus, open_store(settings) as store:
        yield Ports(settings, bus, store, None)


@pytest.fixture
def job() -> Job:
    """Trades of BTCUSDT in one topic, candles of ETHUSDT in the other."""
    name = f"wf-{uuid.uuid4().hex[:8]}"
    return Job(
        name,
        "arango-connector",
        "arango-connector__1",
        TRADES,
        "BTCUSDT",
        DAY,
        date(2024, 8, 4),
        f"{name}-data",
        "trades",
        more_routes=(Route(f"{name}-more-data", "candles"),),
    )


def topics(job) -> list[str]:
    return [route.topic for route in job.routes]


async def candle_numbers(ports) -> list[int]:
    rows = await ports.store.read(FIVE.name, ["ETHUSDT"], START, START + timedelta(days=3))
    return [(moment - START) // timedelta(minutes=5) for moment in rows["open_time"].to_pylist()]


async def committed(ports, job, topic) -> int:
    return (await ports.bus.committed(topic, group=job.connector_group)).get(0, 0)


async def events_of(ports, job):
    async with ports.bus.replay(EVENTS_TOPIC, {}) as replay:
        found = []
        while batch := await replay.receive():
            found += [decode_event(one.message.value) for one in batch]
    return [one for one in found if one.queue_id == job.queue_id]


def live(numbers):
    return [row_message(FIVE, candle(number)) for number in numbers]


async def test_pages_and_live_rows_of_two_topics_land_where_they_belong(ports, job):
    trades, candles = topics(job)
    await ports.bus.publish(
        trades,
        [*whole_day(0, range(50)), row_message(TRADES, row(7000, day=1)), *whole_day(2, range(90, 95)), end()],
    )
    await ports.bus.publish(candles, [*candle_day(0), *live(range(288, 300)), end_message(ETH, 1)])
    async with connecting(ports, job) as (task, reporter):
        assert await asyncio.wait_for(task, DEADLINE) == "Wrote 356 records"
    assert await stored_ids(ports) == [*range(50), 7000, *range(90, 95)]
    assert await candle_numbers(ports) == list(range(300))
    assert ports.meter.value(RECORDS) == reporter.records == 356
    assert (reporter.lag, ports.meter.value(LAG)) == (0, 0)
    done = {(e.type, e.symbol, str(e.partition)) for e in await events_of(ports, job) if e.partition}
    assert done == {
        ("api_trades", "BTCUSDT", "2024-08-01"),
        ("api_trades", "BTCUSDT", "2024-08-03"),
        ("api_candles_5m", "ETHUSDT", "2024-08-01"),
    }, "whoever follows the events must know which dataset and symbol each day is of"


async def test_another_topics_day_does_not_move_the_watermark(ports, job):
    await ports.bus.publish(topics(job)[1], [*candle_day(0), end_message(ETH, 1)])
    async with connecting(ports, job) as (_, reporter):

        async def done():
            return reporter.records == 288

        await until(done)
        assert reporter.watermark == ""
        await ports.bus.publish(topics(job)[0], whole_day(0, range(5)))

        async def moved():
            return reporter.watermark == "2024-08-01"

        await until(moved)


async def test_it_ends_only_when_every_topic_has_ended(ports, job):
    trades, candles = topics(job)
    await ports.bus.publish(trades, [*whole_day(0, range(5)), end()])
    async with connecting(ports, job) as (task, reporter):

        async def written():
            return reporter.records == 5

        await until(written)
        await ports.bus.publish(candles, live(range(3)))

        async def more():
            return await committed(ports, job, candles) == 3

        await until(more)
        assert not task.done()
        await ports.bus.publish(candles, [end_message(ETH, 1)])
        assert await asyncio.wait_for(task, DEADLINE) == "Wrote 8 records"


async def test_the_successor_of_one_that_was_killed_goes_on_in_both_topics(ports, job):
    """One topic has ended by then, the other is in the middle of a day."""
    trades, candles = topics(job)
    await ports.bus.publish(trades, [*whole_day(0, range(50)), *whole_day(1, range(60, 70)), end()])
    *pages, closing = candle_day(0, size=40)
    await ports.bus.publish(candles, [*live(range(300, 320)), *pages[:5]])
    async with connecting(ports, job) as (task, _):

        async def both():
            return await committed(ports, job, candles) == 20 and len(await stored_ids(ports)) == 60

        await until(both)
        assert not task.done()
    assert task.cancelled()
    await ports.bus.publish(candles, [*pages[5:], closing, end_message(ETH, 1)])
    async with connecting(ports, replace(job, telemetry_id="arango-connector__2", fence=1)) as (task, _):
        assert "Wrote" in await asyncio.wait_for(task, DEADLINE)
    assert await stored_ids(ports) == [*range(50), *range(60, 70)]
    assert await candle_numbers(ports) == [*range(288), *range(300, 320)]
    entries = await ports.store.ledger()
    assert all(entry.complete for entry in entries)
    assert len(entries) == 3


async def test_what_is_wrong_in_one_topic_concerns_that_topic_alone(ports, job):
    trades, candles = topics(job)
    await ports.bus.publish(trades, [*whole_day(1, range(5)), end()])
    wrong = row_message(FIVE, candle(9, close="dear"))
    await ports.bus.publish(candles, [wrong, *live(range(4)), end_message(ETH, 1)])
    async with connecting(ports, job) as (task, _):
        assert await asyncio.wait_for(task, DEADLINE) == "Wrote 9 records"
    assert (await stored_ids(ports), await candle_numbers(ports)) == ([*range(5)], [*range(4)])
    found = {one.topic: one.letters for one in await dead_topics(ports.bus)}
    assert {topic: found.get(topic, 0) for topic in topics(job)} == {trades: 0, candles: 1}
    (letter,) = await dead_letters(ports.bus, candles, limit=9)
    assert (letter.source_topic, letter.source_offset, letter.message) == (candles, 0, wrong)


async def test_the_lag_is_the_sum_over_the_topics(ports, job):
    """Nothing of a day is committed before it is whole."""
    trades, candles = topics(job)
    await ports.bus.publish(trades, whole_day(0, range(5))[:-1])
    await ports.bus.publish(candles, candle_day(0, size=100)[:-1])
    async with connecting(ports, job) as (_, reporter):

        async def measured():
            return reporter.lag is not None

        await until(measured)
        assert (reporter.lag, ports.meter.value(LAG)) == (1 + 3, 4)


async def test_a_stop_ends_all_topics_at_whole_batches(ports, job):
    trades, candles = topics(job)
    await ports.bus.publish(trades, whole_day(0, range(5))[:-1])
    await ports.bus.publish(candles, live(range(3)))
    async with connecting(ports, job) as (task, reporter):

        async def received():
            return reporter.lag is not None

        await until(received)
        reporter.stop.set()
        assert await asyncio.wait_for(task, DEADLINE) == "Stopped after 3 records"
    assert (await stored_ids(ports), await candle_numbers(ports)) == ([], [0, 1, 2])
    assert [await committed(ports, job, topic) for topic in topics(job)] == [0, 3]


async def test_a_topic_that_cannot_be_stored_ends_all_with_its_cause(ports, job, monkeypatch):
    monkeypatch.setattr(arango_connector, "Patience", partial(Patience, longest=0.01))
    trades, candles = topics(job)
    failing = Ports(ports.settings, ports.bus, Failing(ports.store, "upsert", 999), None)
    await ports.bus.publish(trades, [*whole_day(0, range(5)), end()])
    await ports.bus.publish(candles, live(range(3)))
    with pytest.raises(Unavailable, match="the store is busy"):
        await asyncio.wait_for(connect(job, failing, Reporter(ports.bus, job, ports.meter)), DEADLINE)
    assert await committed(ports, job, candles) == 0


async def test_one_that_was_replaced_in_one_topic_ends(ports, job):
    _, candles = topics(job)
    await ports.bus.publish(candles, live(range(3)))
    async with connecting(ports, job) as (task, _):

        async def done():
            return await committed(ports, job, candles) == 3

        await until(done)
        async with ports.bus.subscribe(candles, group=job.connector_group):
            with pytest.raises(Replaced, match="taken over"):
                await asyncio.wait_for(task, DEADLINE)
