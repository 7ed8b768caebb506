"""The connector on a real bus and a real store: nothing lost, nothing twice."""

import asyncio
import contextlib
from datetime import timedelta
from functools import partial

import pytest

from resources.bus import Message
from resources.datasets import TRADES
from resources.dead_letters import dead_topics
from resources.errors import StreamForgeError, Unavailable
from resources.live_rows import row_message
from resources.messages import EVENTS_TOPIC, decode_event
from resources.metrics import RECORDS, RETRIES
from streamforge_assets.workers import arango_connector, row_writer
from streamforge_assets.workers.arango_connector import connect
from streamforge_assets.workers.day_writer import DayWriter
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.patience import Patience
from streamforge_assets.workers.place import Lags, Place
from streamforge_assets.workers.row_writer import RowWriter
from streamforge_assets.workers.runtime import Ports, Replaced, Reporter
from tests.assets.connecting import (
    DAY,
    DEADLINE,
    JOB,
    PART,
    Failing,
    committed,
    connecting,
    end,
    row,
    stored_ids,
    until,
    whole_day,
)


async def test_live_rows_are_stored_and_then_committed(ports):
    await ports.bus.publish("data", [row_message(TRADES, row(n)) for n in range(1000)])
    async with connecting(ports):

        async def done():
            return await committed(ports) == 1000

        await until(done)
        assert await stored_ids(ports) == list(range(1000))
    assert ports.meter.value(RECORDS) == 1000


async def test_no_batch_is_larger_than_it_may_be(ports, monkeypatch):
    monkeypatch.setattr(row_writer, "BATCH_ROWS", 10)
    sizes = []

    class Counting(Failing):
        async def upsert(self, dataset, rows):
            sizes.append(rows.num_rows)
            await self._store.upsert(dataset, rows)

    counting = Ports(ports.settings, ports.bus, Counting(ports.store, "", 0), None)
    await ports.bus.publish("data", [row_message(TRADES, row(n)) for n in range(95)])
    async with connecting(counting):

        async def done():
            return await committed(ports) == 95

        await until(done)
    assert sizes == [*[10] * 9, 5]


@pytest.mark.parametrize("name", ["record", "upsert"])
async def test_a_store_that_is_busy_for_a_while_costs_nothing(ports, name):
    ports = Ports(ports.settings, ports.bus, Failing(ports.store, name, 2), None)
    messages = [*whole_day(0, range(10)), row_message(TRADES, row(20)), *whole_day(1, range(100, 110)), end()]
    await ports.bus.publish("data", messages)
    async with connecting(ports) as (task, _):
        await asyncio.wait_for(task, DEADLINE)
    assert await stored_ids(ports) == [*range(10), 20, *range(100, 110)]
    assert {entry.day for entry in await ports.store.ledger("trades", "BTCUSDT")} >= {DAY + timedelta(days=1)}
    assert ports.meter.value(RETRIES) == 2


async def test_a_store_that_stays_away_ends_the_connector_and_nothing_is_committed(ports, monkeypatch):
    monkeypatch.setattr(arango_connector, "Patience", partial(Patience, longest=0.01))
    ports = Ports(ports.settings, ports.bus, Failing(ports.store, "upsert", 999), None)
    await ports.bus.publish("data", [row_message(TRADES, row(0))])
    reporter = Reporter(ports.bus, JOB, ports.meter)
    with pytest.raises(Unavailable, match="busy"):
        await asyncio.wait_for(connect(JOB, ports, reporter), DEADLINE)
    assert await committed(ports) == 0


async def test_a_connector_that_was_replaced_neither_writes_nor_sets_aside(ports):
    """A zombie: it received a whole day, was frozen, and wakes when its successor has gone on."""
    began, thawed = asyncio.Event(), asyncio.Event()

    class Frozen(Failing):
        def ingest(self, partition, **more):
            return self.freezing(partition, **more)

        @contextlib.asynccontextmanager
        async def freezing(self, partition, **more):
            async with self._store.ingest(partition, **more) as ingest:
                began.set()
                await thawed.wait()
                yield ingest

    zombie_ports = Ports(ports.settings, ports.bus, Frozen(ports.store, "", 0), None)
    await ports.bus.publish("data", whole_day(0, range(5)))
    async with connecting(zombie_ports) as (zombie, _):
        await asyncio.wait_for(began.wait(), DEADLINE)
        successor = Job(**{name: getattr(JOB, name) for name in JOB.__slots__} | {"telemetry_id": "c__2"})
        await ports.bus.publish("data", [end()])
        async with connecting(ports, successor) as (task, _):
            await asyncio.wait_for(task, DEADLINE)
        version = (await ports.store.stored(PART)).version
        thawed.set()
        with pytest.raises(StreamForgeError, match="another connector has gone on"):
            await asyncio.wait_for(zombie, DEADLINE)
    assert (await ports.store.stored(PART)).version == version
    assert await dead_topics(ports.bus) == []


@pytest.mark.parametrize("message", [row_message(TRADES, row(0)), Message(b"?", "", {"kind": "riddle"})])
async def test_one_that_wakes_up_with_rows_in_its_hands_neither_writes_nor_sets_them_aside(ports, message):
    reporter = Reporter(ports.bus, JOB, ports.meter)
    await ports.bus.publish("data", [message])
    async with ports.bus.subscribe("data", group=JOB.connector_group) as messages:
        (delivery,) = await messages.receive()
        async with ports.bus.subscribe("data", group=JOB.connector_group) as successor:
            await successor.commit((await successor.receive())[0])
        patience = Patience(ports.meter, reporter.stop)
        place = Place(JOB.routes[0], JOB, ports, reporter, messages, patience, Lags(JOB, ports, reporter))
        rows = RowWriter(place)

        async def go_on():
            await arango_connector._take(delivery, place, DayWriter(place), rows)
            await rows.flush(commit=True)

        with pytest.raises(Replaced, match="another connector has gone on from here in data"):
            await go_on()
    assert await stored_ids(ports) == []
    assert await dead_topics(ports.bus) == []


async def test_data_of_a_loader_that_was_replaced_before_are_ignored_even_by_a_new_connector(ports):
    """The rest of a half-sent day, from a zombie, would pass for the whole day."""
    stale = whole_day(0, range(50, 60), attempt=1)
    await ports.bus.publish("data", [*stale, *whole_day(1, range(100, 105), attempt=2), end(attempt=2)])
    job = Job(**{name: getattr(JOB, name) for name in JOB.__slots__} | {"fence": 2})
    async with connecting(ports, job) as (task, _):
        await asyncio.wait_for(task, DEADLINE)
    assert await stored_ids(ports) == list(range(100, 105))


async def test_a_stop_writes_the_batch_at_hand_and_leaves_an_open_day_to_the_next(ports):
    await ports.bus.publish("data", [row_message(TRADES, row(0)), *whole_day(1, range(10, 15))[:-1]])
    async with connecting(ports) as (task, reporter):

        async def received():
            return bool(reporter.lag)

        await until(received)
        reporter.stop.set()
        assert "Stopped after" in await asyncio.wait_for(task, DEADLINE)
    assert await stored_ids(ports) == [0]
    await ports.bus.publish("data", [*whole_day(1, range(10, 15))[-1:], end()])
    async with connecting(ports) as (task, _):
        await asyncio.wait_for(task, DEADLINE)
    assert await stored_ids(ports) == [0, *range(10, 15)]


async def test_the_events_tell_the_lag(ports):
    await ports.bus.publish("data", whole_day(0, range(5)))
    async with (
        ports.bus.subscribe(EVENTS_TOPIC, group="test") as events,
        connecting(ports) as (_, reporter),
    ):

        async def measured():
            return reporter.lag is not None

        await until(measured)
        await reporter.send("loading", "alive")
        found = [decode_event(d.message.value) for d in await events.receive()]
        assert found[-1].model_extra["lag"] == reporter.lag
