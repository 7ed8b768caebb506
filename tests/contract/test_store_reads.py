"""The store's contract: ranges, and what is there: partitions, their ledger, documents."""

from __future__ import annotations

from datetime import timedelta

import pytest

from resources.datasets import Partition
from resources.errors import Rejected
from resources.records import CANDLE
from resources.store.port import Store, Stored
from tests.contract.rows import BTC, DAY, NEXT, candles, put, trades
from tests.contract.stores import entry, held

# Reads


async def test_range_edges_are_half_open(store: Store) -> None:
    for day in (DAY, NEXT):
        await put(store, candles("BTCUSDT", day), into=Partition("candles_5m", "BTCUSDT", day))
    await store.upsert("candles_5m", candles("BTCUSDT", NEXT, [0]))
    start, end = BTC.start + timedelta(hours=23, minutes=50), BTC.end + timedelta(minutes=10)
    times = (await store.read("candles_5m", ["BTCUSDT"], start, end))["open_time"].to_pylist()
    assert times == [start + timedelta(minutes=5 * i) for i in range(4)]
    count = (await store.read("candles_5m", ["BTCUSDT"], start, end, ["close"])).num_rows
    assert count == 4
    one = await store.read("candles_5m", ["BTCUSDT"], start, start + timedelta(microseconds=1))
    assert one.num_rows == 1
    none = await store.read("candles_5m", ["BTCUSDT"], end, start)
    assert none.num_rows == 0
    assert none.schema == CANDLE.schema


async def test_symbols_come_as_given_and_columns_as_recorded(store: Store) -> None:
    for symbol in ("AUSDT", "BUSDT", "CUSDT"):
        await put(store, candles(symbol, DAY, range(2)), into=Partition("candles_5m", symbol, DAY))
    symbols = ["CUSDT", "NONEUSDT", "AUSDT"]
    table = await store.read("candles_5m", symbols, BTC.start, BTC.end, ["close", "open_time", "symbol"])
    assert table.schema.names == ["symbol", "open_time", "close"]
    assert table["symbol"].to_pylist() == ["CUSDT", "CUSDT", "AUSDT", "AUSDT"]
    labels = await store.read("candles_5m", symbols, BTC.start, BTC.end, ["interval"])
    assert labels.to_pydict() == {"interval": ["5m"] * 4}
    whole = await store.read("candles_5m", symbols, BTC.start, BTC.end)
    assert whole.schema == CANDLE.schema


async def test_labels_can_be_scanned(store: Store) -> None:
    await put(store, trades([1, 2]))
    batches = [batch.to_pydict() async for batch in store.scan(BTC, ["symbol"])]
    assert batches == [{"symbol": ["BTCUSDT"] * 2}]
    assert [batch async for batch in store.scan(Partition("trades", "NONE", DAY), ["symbol"])] == []


async def test_a_time_without_zone_is_rejected(store: Store) -> None:
    naive = BTC.start.replace(tzinfo=None)
    with pytest.raises(Rejected, match="time zone"):
        await store.read("trades", ["BTCUSDT"], naive, BTC.end)


# What is there


async def test_partitions_are_sorted_and_chosen(store: Store) -> None:
    wanted = [
        Partition(d, s, n) for d in ("candles_5m", "trades") for s in ("AUSDT", "BUSDT") for n in (DAY, NEXT)
    ]
    for partition in reversed(wanted):
        await put(store, into=partition)
    assert [s.partition for s in await store.partitions()] == wanted
    assert [s.partition for s in await store.partitions("trades")] == wanted[4:]
    assert [s.partition for s in await store.partitions("trades", "BUSDT")] == wanted[6:]
    assert [s.partition for s in await store.partitions(symbol="AUSDT")] == [*wanted[:2], *wanted[4:6]]


async def test_delete_removes_rows_and_entry_for_good(store: Store) -> None:
    stored = await put(store, trades([1]))
    await store.upsert("trades", trades([2]))
    await store.record([entry(stored)])
    await store.delete(BTC)
    await store.delete(BTC)
    assert await store.stored(BTC) is None
    assert await held(store) == {}
    assert await store.ledger() == []
    again = await put(store, trades([1]))
    assert again.version != stored.version
    assert await held(store) == {1: 1.0}
    assert await store.ledger() == []


async def test_ledger_entries_come_back_sorted_and_chosen(store: Store) -> None:
    partitions = [Partition("trades", s, n) for s in ("AUSDT", "BUSDT") for n in (DAY, NEXT)]
    entries = [entry(await put(store, into=partition), source="test") for partition in partitions]
    await store.record(reversed(entries))
    assert await store.ledger() == entries
    assert await store.ledger("trades", "BUSDT") == entries[2:]
    assert await store.ledger(start=NEXT) == [entries[1], entries[3]]
    assert await store.ledger(end=NEXT) == [entries[0], entries[2]]
    assert await store.ledger("candles_5m") == []
    changed = entries[0].model_copy(update={"source": "other"})
    await store.record([changed])
    assert await store.ledger("trades", "AUSDT", DAY, NEXT) == [changed]


@pytest.mark.parametrize("change", ["ingest", "replace", "upsert"])
async def test_a_ledger_entry_of_changed_data_is_left_out(store: Store, change: str) -> None:
    await store.record([entry(await put(store, trades([1])))])
    assert len(await store.ledger()) == 1
    if change == "upsert":
        await store.upsert("trades", trades([2]))
    else:
        await put(store, trades([2]), replace=change == "replace")
    assert await store.ledger() == []
    current = await store.stored(BTC)
    assert current is not None
    await store.record([entry(current)])
    assert len(await store.ledger()) == 1


@pytest.mark.parametrize("replace", [False, True])
async def test_the_same_rows_again_change_nothing_not_even_the_version(store: Store, replace: bool) -> None:
    """Two overlapping backfills: a day is known and complete all the time that the second one loads it again."""
    stored = await put(store, trades([1, 2, 3]))
    await store.record([entry(stored)])
    assert await put(store, trades([1, 2, 3]), replace=replace) == stored
    assert len(await store.ledger()) == 1


async def test_a_late_entry_does_not_replace_the_one_of_newer_data(store: Store) -> None:
    """Two processes load one day: the slower one's entry would hide the truth about the faster one's rows."""
    replaced = entry(await put(store, trades([1])))
    current = entry(await put(store, trades([1, 2]), replace=True))
    await store.record([current])
    await store.record([replaced])
    assert await store.ledger() == [current]


async def test_an_entry_of_a_partition_that_is_not_there_is_left_out(store: Store) -> None:
    ghost = Stored(BTC, 0, 0, "")
    await store.record([entry(ghost)])
    assert await store.ledger() == []


async def test_documents_are_replaced_listed_and_removed(store: Store) -> None:
    await store.put_document("workflows", "b", {"state": "pending", "n": [1, {"x": None}]})
    await store.put_document("workflows", "a", {"state": "running"})
    await store.put_document("workflows", "b", {"state": "finished"})
    assert await store.document("workflows", "b") == {"state": "finished"}
    assert await store.documents("workflows") == [{"state": "running"}, {"state": "finished"}]
    assert await store.document("other", "b") is None
    await store.delete_document("workflows", "b")
    await store.delete_document("workflows", "b")
    assert await store.document("workflows", "b") is None
    with pytest.raises(Rejected):
        await store.put_document("workflows", "c", {"when": object()})
