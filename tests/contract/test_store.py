"""The contract of the store: every adapter passes all of it. Tests know only the port."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.datasets import Partition
from resources.errors import Rejected
from resources.ledger import LedgerEntry
from resources.records import CANDLE, TRADE
from resources.settings import StoreKind, load_settings
from resources.store import open_store
from resources.store.port import Store, Stored
from tests.contract.rows import BTC, DAY, NEXT, candles, put, trades


@asynccontextmanager
async def lake_store(home: Path) -> AsyncIterator[dict[str, Any]]:
    yield {"store": "lake", "home": home}


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[dict[str, Any]]]] = {"lake": lake_store}
"""Each yields the settings of an empty store; other processes open the same store by them."""


@pytest.fixture(params=STORES)
async def overrides(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    async with STORES[request.param](tmp_path) as values:
        yield values


@pytest.fixture
async def store(overrides: dict[str, Any]) -> AsyncIterator[Store]:
    async with open_store(load_settings(**overrides)) as opened:
        yield opened


async def held(store: Store, partition: Partition = BTC) -> dict[int, float]:
    """Trade id to price, after making sure that a read and a scan tell the same, in order."""
    table = await store.read("trades", [partition.symbol], partition.start, partition.end)
    assert table.schema == TRADE.schema
    batches = [batch async for batch in store.scan(partition, ["price", "trade_id"])]
    assert all(batch.schema.names == ["trade_id", "price"] for batch in batches)
    ids = table["trade_id"].to_pylist()
    assert ids == sorted(set(ids))
    assert ids == [value for batch in batches for value in batch["trade_id"].to_pylist()]
    prices = table["price"].to_pylist()
    assert prices == [value for batch in batches for value in batch["price"].to_pylist()]
    stored = await store.stored(partition)
    assert (stored.rows if stored else 0) == len(ids)
    return dict(zip(ids, prices, strict=True))


def entry(stored: Stored, **changes: Any) -> LedgerEntry:
    partition = stored.partition
    values = {
        "dataset": partition.dataset,
        "symbol": partition.symbol,
        "day": partition.day,
        "rows": stored.rows,
        "expected": stored.rows,
        "written_at": datetime(2024, 8, 2, tzinfo=UTC),
        "version": stored.version,
    }
    return LedgerEntry(**{**values, **changes})


def test_every_store_setting_has_a_contract_run() -> None:
    assert set(STORES) == set(get_args(StoreKind))


# Bulk writes


async def test_what_was_ingested_comes_back_whole(store: Store) -> None:
    rows = trades(range(5))
    stored = await put(store, rows)
    assert (stored.partition, stored.rows) == (BTC, 5)
    assert stored == await store.stored(BTC)
    assert (await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end)).equals(rows)


async def test_nothing_is_visible_before_commit_or_without_it(store: Store) -> None:
    async with store.ingest(BTC) as ingest:
        await ingest.append(trades(range(5)))
        assert await store.stored(BTC) is None
    assert await store.stored(BTC) is None
    assert await store.partitions() == []


async def test_an_exception_inside_an_ingest_keeps_what_was_there(store: Store) -> None:
    before = await put(store, trades(range(5)))

    async def broken() -> None:
        async with store.ingest(BTC, replace=True) as ingest:
            await ingest.append(trades([9]))
            raise RuntimeError("source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        await broken()
    assert await store.stored(BTC) == before


async def test_a_replay_changes_no_row(store: Store) -> None:
    await put(store, trades(range(100)))
    await put(store, trades(range(40, 60)))
    await store.upsert("trades", trades(range(70, 80)))
    assert await held(store) == dict.fromkeys(range(100), 1.0)


async def test_ingests_join_what_is_stored_and_later_rows_win(store: Store) -> None:
    await put(store, trades(range(10, 20)))
    await put(store, trades(range(20, 30), price=2.0))
    await put(store, trades(range(11), price=3.0))
    expected = {i: 3.0 if i < 11 else 1.0 if i < 20 else 2.0 for i in range(30)}
    assert await held(store) == expected


async def test_replace_leaves_only_the_new_rows(store: Store) -> None:
    before = await put(store, trades(range(10)))
    after = await put(store, trades([3, 4], price=2.0), replace=True)
    assert after.version != before.version
    assert await held(store) == {3: 2.0, 4: 2.0}
    await put(store, replace=True)
    assert await held(store) == {}


async def test_rows_out_of_order_and_doubled_are_put_right(store: Store) -> None:
    await put(store, trades([5, 6]), trades([1, 2, 2], price=2.0), trades([6, 3, 3, 9], price=3.0))
    assert await held(store) == {1: 2.0, 2: 2.0, 3: 3.0, 5: 1.0, 6: 3.0, 9: 3.0}


async def test_large_partitions_stay_ordered_across_batches(store: Store) -> None:
    await put(store, *(trades(range(i, i + 10_000), day=DAY) for i in range(0, 80_000, 20_000)))
    await put(store, *(trades(range(i, i + 10_000), price=2.0) for i in range(10_000, 80_000, 20_000)))
    table = await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end, ["trade_id", "price"])
    assert table["trade_id"].to_pylist() == list(range(80_000))
    assert table["price"].to_pylist() == [1.0 + (i // 10_000) % 2 for i in range(80_000)]
    sizes = [len(batch) async for batch in store.scan(BTC, ["trade_id"])]
    assert sum(sizes) == 80_000
    assert max(sizes) <= 200_000


async def test_an_empty_commit_proves_a_day_without_rows(store: Store) -> None:
    stored = await put(store)
    assert stored.rows == 0
    assert await store.stored(BTC) == stored
    assert await store.partitions() == [stored]
    assert await held(store) == {}
    await put(store, trades([1]))
    again = await put(store)
    assert again.rows == 1


async def test_an_ingest_ends_with_its_commit(store: Store) -> None:
    async with store.ingest(BTC) as ingest:
        await ingest.append(trades([1]))
        await ingest.commit()
        with pytest.raises(Rejected):
            await ingest.append(trades([2]))
        with pytest.raises(Rejected):
            await ingest.commit()
    assert await held(store) == {1: 1.0}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows.drop_columns(["price"]),
        lambda rows: rows.append_column("more", rows["price"]),
        lambda rows: rows.set_column(3, "price", rows["trade_id"]),
        lambda rows: rows.set_column(3, "price", pa.array([None] * len(rows), pa.float64())),
        lambda rows: trades([1, 2], symbol="ETHUSDT"),
        lambda rows: pa.concat_tables([rows, trades([3], symbol="ETHUSDT")]).unify_dictionaries(),
        lambda rows: trades([1, 2], day=NEXT),
        lambda rows: trades([86_399, 86_400]),
    ],
    ids=["missing", "unknown", "type", "null", "symbol", "mixed symbols", "day", "next midnight"],
)
async def test_rows_that_do_not_belong_are_rejected(store: Store, spoil: Callable[[pa.Table], pa.Table]) -> None:
    async with store.ingest(BTC) as ingest:
        await ingest.append(trades([7]))
        with pytest.raises(Rejected):
            await ingest.append(spoil(trades([1, 2])))
    assert await store.stored(BTC) is None


@pytest.mark.parametrize("symbol", ["", "../x", "a/b", ".hidden", "A B", "A\x00", "x" * 300])
async def test_a_symbol_that_is_none_is_rejected(store: Store, symbol: str) -> None:
    with pytest.raises(Rejected):
        await put(store, into=Partition("trades", symbol, DAY))
    with pytest.raises(Rejected):
        await store.upsert("trades", trades([1], symbol=symbol))
    with pytest.raises(Rejected):
        await store.read("trades", [symbol], BTC.start, BTC.end)


async def test_an_unknown_dataset_or_column_is_rejected(store: Store) -> None:
    with pytest.raises(Rejected, match="trade"):
        await store.upsert("quotes", trades([1]))
    with pytest.raises(Rejected, match="candles"):
        await put(store, into=Partition("candles_7m", "BTCUSDT", DAY))
    with pytest.raises(Rejected, match="colour"):
        await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end, ["colour"])
    with pytest.raises(Rejected, match="interval"):
        await put(store, candles("BTCUSDT", DAY), into=Partition("candles_1m", "BTCUSDT", DAY))


# Small writes


async def test_upserts_reach_every_symbol_and_day(store: Store) -> None:
    eth = Partition("trades", "ETHUSDT", NEXT)
    both = [trades([1, 2]), trades([5], symbol="ETHUSDT", day=NEXT), trades([2], price=2.0)]
    await store.upsert("trades", pa.concat_tables(both))
    assert await held(store) == {1: 1.0, 2: 2.0}
    assert await held(store, eth) == {5: 1.0}
    assert [stored.partition for stored in await store.partitions()] == [BTC, eth]


async def test_many_small_upserts_lose_nothing(store: Store) -> None:
    await put(store, trades(range(0, 3000, 2)))
    versions = set()
    for turn in range(45):
        await store.upsert("trades", trades([turn, turn + 1, 5000 + turn], price=float(turn)))
        stored = await store.stored(BTC)
        versions.add(stored.version if stored else None)
    expected = dict.fromkeys(range(0, 3000, 2), 1.0)
    for turn in range(45):
        expected.update(dict.fromkeys([turn, turn + 1, 5000 + turn], float(turn)))
    assert await held(store) == expected
    assert len(versions) == 45


async def test_an_upsert_of_nothing_writes_nothing(store: Store) -> None:
    await store.upsert("trades", trades([]))
    assert await store.partitions() == []


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


# Life and death


async def test_closing_twice_is_harmless_and_reopening_finds_everything(overrides: dict[str, Any]) -> None:
    store = open_store(load_settings(**overrides))
    async with store:
        await store.record([entry(await put(store, trades([1])))])
        await store.put_document("c", "k", {"v": 1})
    await store.__aexit__(None, None, None)
    async with open_store(load_settings(**overrides)) as again:
        assert await held(again) == {1: 1.0}
        assert len(await again.ledger()) == 1
        assert await again.document("c", "k") == {"v": 1}


async def test_cancelling_inside_a_call_leaves_old_or_new(store: Store) -> None:
    await put(store, trades(range(2000)))
    old, new = {float(1)}, {float(2)}
    for turn in range(25):
        task = asyncio.create_task(put(store, trades(range(2000), price=2.0), replace=True))
        await asyncio.sleep(turn * 0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert set((await held(store)).values()) in (old, new)
        await put(store, trades(range(2000)), replace=True)


async def test_readers_see_old_or_new_and_never_a_mix(store: Store) -> None:
    await put(store, trades(range(300), price=0.0))
    done = asyncio.Event()

    async def write() -> None:
        for turn in range(1, 25):
            await put(store, trades(range(turn, 300 + turn), price=float(turn)), replace=True)
            if turn % 2:
                await store.upsert("trades", trades(range(turn, 300 + turn), price=float(turn)))
        done.set()

    async def watch() -> int:
        seen = set()
        while not done.is_set():
            table = await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end, ["trade_id", "price"])
            (price,) = set(table["price"].to_pylist())
            assert table["trade_id"].to_pylist() == list(range(int(price), int(price) + 300))
            batches = [batch async for batch in store.scan(BTC, ["price"])]
            assert len({value for batch in batches for value in batch["price"].to_pylist()}) == 1
            seen.add(price)
        return len(seen)

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        watchers = [group.create_task(watch()) for _ in range(2)]
    assert max(task.result() for task in watchers) > 1


WRITER = """
import asyncio, json, sys
from resources.settings import load_settings
from resources.store import open_store
from tests.contract.rows import BTC, put, trades

async def main(overrides, number, mode):
    async with open_store(load_settings(**overrides)) as store:
        print("ready", flush=True)
        if mode == "hang":
            async with store.ingest(BTC, replace=True) as ingest:
                await ingest.append(trades(range(1000, 80_000), price=9.0))
                print("appended", flush=True)
                await asyncio.sleep(60)
        for turn in range(10**9 if mode == "forever" else 12):
            ids = range(number * 1000 + turn * 10, number * 1000 + turn * 10 + 10)
            price = float(turn)
            if mode == "forever":
                await put(store, trades(range(500), price=price), replace=True)
                await store.upsert("trades", trades(range(500), price=price))
            elif turn % 3:
                await store.upsert("trades", trades(ids, price=price))
            else:
                await put(store, trades(ids, price=price))
            await store.put_document("c", f"{number:02}-{turn:02}", {"turn": turn})

asyncio.run(main(json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
"""


def start_writer(overrides: dict[str, Any], number: int, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, json.dumps(overrides, default=str), str(number), mode]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


async def test_writing_processes_lose_nothing_of_each_other(store: Store, overrides: dict[str, Any]) -> None:
    writers = [start_writer(overrides, number, "finite") for number in range(3)]
    codes = [await asyncio.to_thread(writer.wait, 60) for writer in writers]
    assert codes == [0, 0, 0]
    expected = {n * 1000 + t * 10 + i: float(t) for n, t, i in itertools.product(range(3), range(12), range(10))}
    assert await held(store) == expected
    assert len(await store.documents("c")) == 36


async def test_a_writer_killed_before_commit_leaves_the_old_rows(store: Store, overrides: dict[str, Any]) -> None:
    before = await put(store, trades(range(5)))
    writer = start_writer(overrides, 0, "hang")
    try:
        assert writer.stdout is not None
        for word in ("ready\n", "appended\n"):
            assert await asyncio.to_thread(writer.stdout.readline) == word
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
    assert await store.stored(BTC) == before
    await put(store, trades([5]))
    assert await held(store) == dict.fromkeys(range(6), 1.0)


async def test_a_writer_killed_at_any_moment_leaves_whole_commits(store: Store, overrides: dict[str, Any]) -> None:
    await put(store, trades(range(500), price=0.0))
    writers = [start_writer(overrides, 0, "forever") for _ in range(3)]
    try:
        for number, writer in enumerate(writers):
            assert writer.stdout is not None
            assert await asyncio.to_thread(writer.stdout.readline) == "ready\n"
            await asyncio.sleep(0.05 + 0.031 * number)
            writer.send_signal(signal.SIGKILL)
            writer.wait(10)
            rows = await held(store)
            assert list(rows) == list(range(500))
            assert len(set(rows.values())) == 1
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(10)


ids = st.lists(st.integers(0, 30), max_size=8)
steps = st.lists(
    st.tuples(st.sampled_from(["ingest", "replace", "upsert"]), st.lists(ids, max_size=3)), max_size=7
)


@given(steps=steps)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_sequence_of_writes_equals_a_dictionary(store: Store, steps: list[Any]) -> None:
    await store.delete(BTC)
    model: dict[int, float] = {}
    price = 0.0
    for kind, pages in steps:
        if kind == "replace":
            model = {}
        tables = []
        for page in pages:
            price += 1
            tables.append(trades(page, price=price))
            model.update(dict.fromkeys(page, price))
        if kind == "upsert":
            for table in tables:
                await store.upsert("trades", table)
        else:
            await put(store, *tables, replace=kind == "replace")
    assert await held(store) == dict(sorted(model.items()))
