"""DataFrames have the index and dtypes that the documentation says."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from resources.records import CANDLE, RECORDS, TRADE
from resources.store.frames import to_frame
from tests.contract.rows import DAY, candles, trades


@pytest.mark.parametrize("rows", [0, 3])
def test_dtypes_are_the_documented_ones(rows: int) -> None:
    frame = to_frame(trades(range(rows)), TRADE)
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert str(frame.index.dtype) == "datetime64[us, UTC]"
    assert frame.index.name == "time"
    dtypes = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert dtypes == {n: d for n, d in TRADE.pandas_dtypes.items() if n != "time"}


def test_symbols_are_sorted_into_one_time_line() -> None:
    table = pa.concat_tables([candles("BUSDT", DAY, range(2)), candles("AUSDT", DAY, range(2))])
    frame = to_frame(table, CANDLE)
    assert frame.index.is_monotonic_increasing
    assert frame["symbol"].tolist() == ["BUSDT", "AUSDT"] * 2
    assert str(frame["symbol"].dtype) == "category"


@pytest.mark.parametrize("name", RECORDS)
def test_an_empty_table_gives_an_empty_frame(name: str) -> None:
    record = RECORDS[name]
    frame = to_frame(record.schema.empty_table(), record)
    assert frame.empty
    assert str(frame.index.dtype) == "datetime64[us, UTC]"


def test_columns_may_be_left_out() -> None:
    assert to_frame(trades([1, 2]).select(["time", "price"]), TRADE).columns.tolist() == ["price"]
