"""The store's contract: what is written, in bulk or row by row, comes back. The tests know only the port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.datasets import Partition
from resources.errors import Rejected
from resources.settings import StoreKind
from resources.store.port import Store
from tests.contract.rows import BTC, DAY, NEXT, candles, put, trades
from tests.contract.stores import STORES, held


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


def versioned(numbers: Any, version: int, price: float) -> pa.Table:
    """Candles after so many trades."""
    rows = candles("BTCUSDT", DAY, numbers)
    rows = rows.set_column(
        rows.schema.get_field_index("trade_count"), "trade_count", pa.array([version] * len(rows))
    )
    return rows.set_column(rows.schema.get_field_index("close"), "close", pa.array([price] * len(rows)))


async def closes(store: Store) -> list[float]:
    rows = await store.read("candles_5m", ["BTCUSDT"], BTC.start, BTC.end, ["close"])
    return list(rows["close"].to_pylist())


async def test_an_upsert_that_comes_late_does_not_replace_what_is_newer(store: Store) -> None:
    """A candle that was set aside and sent again, or came from a double of its producer, took volume back."""
    await store.upsert("candles_5m", versioned([0, 1], 5, 5.0))
    await store.upsert("candles_5m", versioned([1, 2], 7, 7.0))
    before = await store.stored(Partition("candles_5m", "BTCUSDT", DAY))
    await store.upsert("candles_5m", versioned([1, 2], 6, 6.0))
    assert await store.stored(Partition("candles_5m", "BTCUSDT", DAY)) == before
    await store.upsert("candles_5m", versioned([0, 1, 3], 6, 6.5))
    assert await closes(store) == [6.5, 7.0, 7.0, 6.5]


async def test_of_the_versions_in_one_upsert_the_newest_is_kept_wherever_it_stands(store: Store) -> None:
    batch = pa.concat_tables([versioned([0], 2, 2.0), versioned([0], 3, 3.0), versioned([0], 1, 1.0)])
    await store.upsert("candles_5m", batch.unify_dictionaries())
    assert await closes(store) == [3.0]
    await store.upsert("candles_5m", versioned([0], 3, 3.5))
    assert await closes(store) == [3.5], "of one version the last one given counts"


async def test_the_late_upsert_is_told_however_many_there_were_before(store: Store) -> None:
    for turn in range(40):
        await store.upsert("candles_5m", versioned([turn % 3], turn + 1, float(turn)))
    await store.upsert("candles_5m", versioned([0, 1, 2], 37, -1.0))
    assert await closes(store) == [39.0, 37.0, 38.0]


async def test_a_whole_day_replaces_versions_that_are_higher(store: Store) -> None:
    """What the exchange publishes at last is right, whatever the live stream said."""
    await store.upsert("candles_5m", versioned([0], 9, 9.0))
    await put(store, versioned([0], 8, 8.0), into=Partition("candles_5m", "BTCUSDT", DAY))
    assert await closes(store) == [8.0]


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
