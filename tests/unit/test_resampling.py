from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.datasets import candles, to_us
from resources.records import LABEL, TIME, TRADE
from streamforge_assets.market.resampling import resample

START = to_us(datetime(2024, 8, 1, tzinfo=UTC))
MINUTE = 60_000_000


def trades(rows: list[tuple[int, Decimal, Decimal, bool]]) -> pa.Table:
    """Rows of (microseconds after START, price, quantity, is_buyer_maker)."""
    count = len(rows)
    ids = np.arange(count)
    return pa.table(
        [
            pa.array(["BTCUSDT"] * count).cast(LABEL),
            pa.array(ids),
            pa.array([START + row[0] for row in rows], pa.int64()).cast(TIME),
            pa.array([float(row[1]) for row in rows]),
            pa.array([float(row[2]) for row in rows]),
            pa.array(ids * 2),
            pa.array(ids * 2 + 1),
            pa.array([row[3] for row in rows], pa.bool_()),
        ],
        schema=TRADE.schema,
    )


prices = st.integers(1, 10_000_000).map(lambda n: Decimal(n) / 100)
quantities = st.integers(1, 10_000_000).map(lambda n: Decimal(n) / 100_000)
rows = st.lists(
    st.tuples(st.integers(0, 60 * MINUTE - 1), prices, quantities, st.booleans()), min_size=1, max_size=60
)


@given(rows)
def test_candles_equal_a_plain_decimal_computation(drawn):
    ordered = sorted(drawn, key=lambda row: row[0])
    table = resample(trades(ordered), candles("5m"))
    buckets: dict[int, list] = {}
    for row in ordered:
        buckets.setdefault(row[0] // (5 * MINUTE), []).append(row)
    assert table.num_rows == len(buckets)
    for got, (slot, bucket) in zip(table.to_pylist(), sorted(buckets.items()), strict=True):
        assert to_us(got["open_time"]) == START + slot * 5 * MINUTE
        assert to_us(got["close_time"]) == START + (slot + 1) * 5 * MINUTE - 1000
        assert got["open"] == float(bucket[0][1])
        assert got["close"] == float(bucket[-1][1])
        assert got["high"] == float(max(row[1] for row in bucket))
        assert got["low"] == float(min(row[1] for row in bucket))
        assert got["volume"] == float(sum(row[2] for row in bucket))
        assert got["quote_volume"] == float(sum(row[1] * row[2] for row in bucket))
        assert got["trade_count"] == 2 * len(bucket)
        assert got["taker_buy_volume"] == float(sum(row[2] for row in bucket if not row[3]))
        assert got["taker_buy_quote_volume"] == float(sum(row[1] * row[2] for row in bucket if not row[3]))


def test_sums_beyond_what_a_float_holds_exactly_are_still_the_nearest_float():
    big = Decimal("92233720.36854775")
    table = resample(trades([(0, Decimal(1), big, False)] * 3), candles("1m"))
    assert table["volume"][0].as_py() == float(3 * big)


def test_products_too_large_for_64_bits_do_not_wrap_around():
    huge = Decimal("99999999.99999999")
    table = resample(trades([(0, huge, huge, False)] * 2), candles("1m"))
    assert table["quote_volume"][0].as_py() == pytest.approx(float(2 * huge * huge), rel=1e-15)


def test_no_trades_make_no_candles():
    assert resample(TRADE.schema.empty_table(), candles("1m")).num_rows == 0
