"""The connector on a real bus and a real store: nothing lost, nothing twice, what is wrong set aside."""

import asyncio
import contextlib
from datetime import timedelta
from functools import partial

import pytest

from resources.bus import Delivery, Message, open_bus
from resources.datasets import TRADES
from resources.dead_letters import dead_letters, dead_topics, replay, set_aside
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.live_rows import row_message
from resources.messages import EVENTS_TOPIC, decode_event
from resources.metrics import DEAD_LETTERS, RECORDS, RETRIES
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.workers import arango_connector, row_writer
from streamforge_assets.workers.arango_connector import connect
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.patience import Patience
from streamforge_assets.workers.runtime import Ports, Reporter
from tests.assets.connecting import (
    DAY,
    DEADLINE,
    FIVE,
    JOB,
    PART,
    START,
    Failing,
    candle,
    committed,
    connecting,
    end,
    row,
    stored_ids,
    until,
    whole_day,
)

ROW_HEADERS = row_message(TRADES, row(0)).headers


@pytest.fixture
async def ports(tmp_path):
    settings = Settings(home=tmp_path / "home")
    async with open_bus(settings) as bus, open_store(settings) as store:
        yield Ports(settings, bus, store, None)


async def events(ports):
    async with ports.bus.replay(EVENTS_TOPIC, {}) as replay:
        return [decode_event(one.message.value) for one in await replay.receive()]


async def test_live_rows_are_stored_and_then_committed(ports):
    await ports.bus.publish("data", [row_message(TRADES, row(n)) for n in range(1000)])
    async with connecting(ports):

        async def done():
            return await committed(ports) == 1000

        await until(done)
        assert await stored_ids(ports) == list(range(1000))
    assert ports.meter.value(RECORDS) == 1000


async def test_what_is_wrong_goes_to_the_dead_letters_with_its_origin_and_the_rest_goes_on(ports):
    garbage = {"kind": "row", "dataset": "trades"}
    messages = [
        row_message(TRADES, row(0)),
        Message(b"{not json", "BTCUSDT", garbage),
        row_message(TRADES, row(1, price="dear")),
        row_message(TRADES, row(2, colour="red")),
        row_message(TRADES, row(3)),
        Message(b"?", "BTCUSDT", {"kind": "riddle"}),
        Message(b"not a page", "BTCUSDT", end().headers | {"kind": "page"}),
        Message(b"", "BTCUSDT", {"kind": "page", "attempt": "first"}),
        row_message(TRADES, row(4)),
    ]
    await ports.bus.publish("data", messages)
    async with connecting(ports):

        async def done():
            return await committed(ports) == len(messages)

        await until(done)
    assert await stored_ids(ports) == [0, 3, 4]
    letters = await dead_letters(ports.bus, "data", limit=50)
    assert {letter.source_offset for letter in letters} == {1, 2, 3, 5, 6, 7}
    by_origin = {letter.source_offset: letter for letter in letters}
    for offset, reason in (
        (1, "not JSON"),
        (2, "wrong type"),
        (3, "unknown ['colour']"),
        (5, "unknown kind 'riddle'"),
        (6, "not an Arrow IPC stream"),
        (7, "which loader sent it"),
    ):
        assert reason in by_origin[offset].reason
        assert by_origin[offset].message == messages[offset]
    assert {(letter.source_topic, letter.set_aside_by) for letter in letters} == {("data", "arango-connector__1")}
    assert ports.meter.value(DEAD_LETTERS) == 6


async def test_what_is_set_aside_is_dealt_with_even_where_nothing_else_comes(ports):
    """Uncommitted, each successor would set the same messages aside again."""
    await ports.bus.publish("data", [row_message(TRADES, row(n, price="dear")) for n in range(3)])
    for number in (3, 5):
        async with connecting(ports):

            async def done(number=number):
                return await committed(ports) == number

            await until(done)
        if number == 3:
            await ports.bus.publish("data", [Message(b"?", "", {"kind": "riddle"}), Message(b"", "", ROW_HEADERS)])
    letters = await dead_letters(ports.bus, "data", limit=50)
    assert [letter.source_offset for letter in letters] == [0, 1, 2, 3, 4]
    assert "market data are never deleted" in letters[-1].reason


async def test_a_message_that_is_wrong_at_length_ends_nobody(ports):
    """A reason or headers that no dead letter could hold ended the connector, and each of its successors."""
    talkative = row_message(TRADES, row(0) | {f"column {n}": n for n in range(20_000)})
    labelled = Message(b"?", "k" * 16_000, {"kind": "riddle", "story": "x" * 16_500})
    await ports.bus.publish("data", [talkative, labelled, *whole_day(0, range(3)), end()])
    async with connecting(ports) as (task, _):
        await asyncio.wait_for(task, DEADLINE)
    first, second = await dead_letters(ports.bus, "data", limit=9)
    assert len(first.reason) < 1100
    assert (first.message, first.source_offset) == (talkative, 0)
    assert (second.message, second.source_offset) == (Message(b"?"), 1)
    assert "unknown kind 'riddle'" in second.reason


@pytest.mark.parametrize("symbol", ["BTC#USDT", "BTC/USDT", "", "../x", None, 7])
async def test_a_row_whose_key_no_store_could_take_is_set_aside_alone(ports, symbol):
    rows = [row(0), row(1, symbol=symbol), row(2)]
    await ports.bus.publish("data", [Message(row_message(TRADES, one).value, "k", ROW_HEADERS) for one in rows])
    async with connecting(ports):

        async def done():
            return await committed(ports) == 3

        await until(done)
    assert await stored_ids(ports) == [0, 2]
    (letter,) = await dead_letters(ports.bus, "data", limit=9)
    assert letter.source_offset == 1


async def test_a_row_is_known_by_its_columns_whatever_key_its_message_has(ports):
    """Kafka's key only keeps the order of messages; missing or another one, it must not make a second row."""
    value = row_message(TRADES, row(5)).value
    await ports.bus.publish("data", [Message(value, key, ROW_HEADERS) for key in ("", "7", "BTCUSDT")])
    async with connecting(ports):

        async def done():
            return await committed(ports) == 3

        await until(done)
    assert await stored_ids(ports) == [5]
    assert await dead_topics(ports.bus) == []


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


async def test_a_day_one_of_whose_pages_cannot_be_read_is_not_stored_as_if_it_were_whole(ports):
    """The first page's ids are lacked by nobody: those after it follow each other."""
    first, *rest = whole_day(0, range(40), size=10)
    broken = first._replace(value=b"not a page")
    await ports.bus.publish("data", [broken, *rest, *whole_day(1, range(100, 110)), end()])
    async with connecting(ports) as (task, _):
        await asyncio.wait_for(task, DEADLINE)
    assert await stored_ids(ports) == list(range(100, 110))
    assert [entry.day for entry in await ports.store.ledger("trades", "BTCUSDT")] == [DAY + timedelta(days=1)]
    failed = [event for event in await events(ports) if (event.model_extra or {}).get("failed")]
    assert [event.partition for event in failed] == [DAY]
    assert "1 of its 4 pages could not be used; collect it again" in failed[0].message
    assert len(await dead_letters(ports.bus, "data", limit=9)) == 1


async def test_a_page_that_is_sent_again_in_the_middle_of_another_day_harms_neither(ports):
    """It ended the other day, whose rest then passed for all of it."""
    first, *_ = whole_day(0, range(40), size=10)
    *pages, closing = whole_day(1, range(100, 140), size=10)
    await set_aside(
        ports.bus, Delivery("data", 0, 0, 0.0, first), Rejected("it could not be read then"), by="c__0"
    )
    await ports.bus.publish("data", pages[:2])
    assert await replay(ports.bus, "data") == 1
    await ports.bus.publish("data", [*pages[2:], closing, end()])
    async with connecting(ports) as (task, _):
        await asyncio.wait_for(task, DEADLINE)
    assert await stored_ids(ports) == list(range(100, 140))
    reasons = [letter.reason for letter in await dead_letters(ports.bus, "data", limit=9)]
    assert "collect trades BTCUSDT 2024-08-01 again" in reasons[1]


async def test_a_candle_that_is_sent_again_late_does_not_take_volume_back(ports):
    """It was set aside; newer versions of the same candle have been stored since."""
    late = row_message(FIVE, candle(0, trade_count=10, volume=10.0))
    letter = Delivery("data", 0, 0, 0.0, late)
    await set_aside(ports.bus, letter, Rejected("an older connector could not read it"), by="c__0")
    await ports.bus.publish("data", [row_message(FIVE, candle(0, trade_count=n, volume=n)) for n in (20, 30, 25)])
    async with connecting(ports):

        async def stored(count):
            return await committed(ports) == count

        await until(partial(stored, 3))
        assert await replay(ports.bus, "data") == 1
        await until(partial(stored, 4))
    rows = await ports.store.read(FIVE.name, ["ETHUSDT"], START, START + timedelta(days=1))
    assert rows["volume"].to_pylist() == [30.0]


async def test_dead_letters_are_replayed_once_and_looking_at_them_changes_nothing(ports):
    await ports.bus.publish("data", [row_message(TRADES, row(0, price="dear"))])
    async with connecting(ports):

        async def set_aside():
            return bool(await dead_topics(ports.bus))

        await until(set_aside)
    assert len(await dead_letters(ports.bus, "data", limit=5)) == 1
    assert [(t.topic, t.letters, t.waiting) for t in await dead_topics(ports.bus)] == [("data", 1, 1)]
    assert await replay(ports.bus, "data") == 1
    assert await replay(ports.bus, "data") == 0
    assert [(t.topic, t.letters, t.waiting) for t in await dead_topics(ports.bus)] == [("data", 1, 0)]
    assert await ports.bus.end_offsets("data") == {0: 2}
    await ports.bus.delete("data")
    with pytest.raises(Rejected, match="data is gone"):
        await replay(ports.bus, "data")
    with pytest.raises(Rejected, match="other has no dead letters; these topics have: data"):
        await replay(ports.bus, "other")


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
