"""Live rows as they travel: whatever a message holds, it is a row or is refused in one sentence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.bus import Message
from resources.datasets import TRADES, candles
from resources.errors import Rejected
from resources.live_rows import decode_row, row_message, rows_table

ROW = {
    "symbol": "BTCUSDT",
    "trade_id": 1,
    "time": 1722470400000000,
    "price": 1.5,
    "quantity": 2.0,
    "first_trade_id": 1,
    "last_trade_id": 1,
    "is_buyer_maker": False,
}
HEADERS = row_message(TRADES, ROW).headers
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


def decoded(value: bytes):
    dataset, row = decode_row(Message(value, "", HEADERS))
    return rows_table(dataset, [row])


def test_a_row_comes_back_with_its_columns_in_order():
    table = decoded(row_message(TRADES, ROW).value)
    assert table.schema == TRADES.record.schema
    assert table["price"].to_pylist() == [1.5]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (b"", "is empty; market data are never deleted"),
        (b"[]", "must be a JSON object; it is list"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        (json.dumps(ROW | {"price": float("nan")}).encode(), "has the price nan; it must be a finite number"),
        (json.dumps(ROW).replace("1.5", "1e999").encode(), "has the price inf"),
        (json.dumps(ROW | {"symbol": "\ud800"}).encode(), "a value of the wrong type"),
        (json.dumps(ROW | {"trade_id": 2**70}).encode(), "a value of the wrong type"),
        (json.dumps(ROW | {"trade_id": {"a": 1}}).encode(), "a value of the wrong type"),
    ],
)
def test_what_is_no_row_is_refused_in_one_sentence(value, sentence):
    with pytest.raises(Rejected, match=sentence):
        decoded(value)


@given(st.binary() | st.builds(lambda row: json.dumps(row).encode(), values))
def test_no_bytes_pass_for_a_row_or_do_more_than_be_refused(value):
    with pytest.raises(Rejected):
        decoded(value)


@given(st.sampled_from(sorted(ROW)), values)
def test_no_value_of_a_column_does_more_than_be_refused(name, value):
    """An exception of another kind would end the connector, and the next one, and the next."""
    try:
        table = decoded(json.dumps(ROW | {name: value}).encode())
    except Rejected:
        return
    assert table.schema == TRADES.record.schema


def test_a_dataset_that_is_none_is_refused():
    for headers in ({}, {"dataset": "quotes"}):
        with pytest.raises(Rejected, match="is not a dataset"):
            decode_row(Message(b"{}", "", headers))
    with pytest.raises(Rejected, match="wrong columns"):
        decode_row(Message(json.dumps(ROW).encode(), "", {"dataset": candles("5m").name}))
