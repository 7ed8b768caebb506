"""Merging rows in memory."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.datasets import TRADES
from resources.errors import Rejected
from resources.records import TRADE
from resources.store.rows import conform, last_wins, merge, ordered_columns, split
from tests.contract.rows import NEXT, trades

runs = st.lists(st.integers(0, 50), unique=True, max_size=20).map(sorted)


def pages(ids: list[int], price: float, size: int) -> list[pa.Table]:
    return [trades(ids[i : i + size], price=price) for i in range(0, len(ids), size)] + [trades([])]


@given(older=runs, newer=runs, left=st.integers(1, 9), right=st.integers(1, 9))
def test_a_merge_equals_a_dictionary(older: list[int], newer: list[int], left: int, right: int) -> None:
    tables = list(merge(iter(pages(older, 1.0, left)), iter(pages(newer, 2.0, right)), "trade_id"))
    found = [pair for t in tables for pair in zip(t["trade_id"].to_pylist(), t["price"].to_pylist(), strict=True)]
    assert found == sorted((dict.fromkeys(older, 1.0) | dict.fromkeys(newer, 2.0)).items())


@given(st.lists(st.integers(0, 9)))
def test_the_last_row_of_a_key_wins(ids: list[int]) -> None:
    table = pa.concat_tables([trades([]), *(trades([key], price=float(turn)) for turn, key in enumerate(ids))])
    result = last_wins(table, "trade_id")
    expected = sorted({key: float(turn) for turn, key in enumerate(ids)}.items())
    assert list(zip(result["trade_id"].to_pylist(), result["price"].to_pylist(), strict=True)) == expected


def test_rows_are_split_by_symbol_and_day() -> None:
    rows = pa.concat_tables([trades([1]), trades([2], symbol="A"), trades([3], day=NEXT), trades([4])])
    parts = [(symbol, day, part["trade_id"].to_pylist()) for symbol, day, part in split(rows, TRADE)]
    assert parts == [("BTCUSDT", 19936, [1, 4]), ("BTCUSDT", 19937, [3]), ("A", 19936, [2])]


def test_plain_text_labels_and_any_column_order_are_accepted() -> None:
    rows = trades([1, 2])
    plain = rows.set_column(0, "symbol", rows["symbol"].cast(pa.string())).select(rows.column_names[::-1])
    assert conform(plain, TRADES).equals(rows)


def test_numbers_are_never_taken_for_times() -> None:
    rows = trades([1])
    with pytest.raises(Rejected, match="time"):
        conform(rows.set_column(2, "time", rows["time"].cast(pa.int64())), TRADES)


def test_columns_come_in_the_records_order() -> None:
    assert ordered_columns(TRADE, ["price", "symbol"]) == ["symbol", "price"]
    assert ordered_columns(TRADE, None) == TRADE.schema.names
