"""What the connector cannot read or store: set aside alone, with the reason, harmless when it is sent again."""

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from resources.bus import Delivery, Message
from resources.datasets import TRADES
from resources.dead_letters import dead_letters, dead_topics, replay, set_aside
from resources.errors import Rejected
from resources.live_rows import row_message
from resources.messages import EVENTS_TOPIC, decode_event
from resources.metrics import DEAD_LETTERS
from resources.pages import DayReport, day_message, reset_message
from tests.assets.connecting import (
    DAY,
    DEADLINE,
    FIVE,
    PART,
    START,
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


async def events(ports):
    async with ports.bus.replay(EVENTS_TOPIC, {}) as replay:
        return [decode_event(one.message.value) for one in await replay.receive()]


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


async def test_what_is_set_aside_behind_a_row_is_committed_with_it(ports):
    await ports.bus.publish("data", [row_message(TRADES, row(0)), Message(b"{not json", "", ROW_HEADERS)])
    async with connecting(ports):

        async def done():
            return await committed(ports) == 2

        await until(done)
    assert await stored_ids(ports) == [0]


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


async def test_a_day_that_claims_more_pages_than_there_can_be_fails_and_costs_nothing(ports):
    page, _ = whole_day(0, range(5))
    await ports.bus.publish("data", [page, day_message(DayReport(pages=10**15), PART, 1), end()])
    async with connecting(ports) as (task, _):
        await asyncio.wait_for(task, DEADLINE)
    assert await stored_ids(ports) == []


async def test_pages_that_were_taken_back_do_not_count_for_those_that_came_instead(ports):
    first, second, closing = whole_day(0, range(20), size=10)
    broken = first._replace(value=b"not a page")
    await ports.bus.publish("data", [first, second, reset_message(PART, 1), broken, second, closing, end()])
    async with connecting(ports) as (task, _):
        await asyncio.wait_for(task, DEADLINE)
    assert await stored_ids(ports) == []


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
