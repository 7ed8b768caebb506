"""Arrow tables as the DataFrames that StreamForge returns."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from resources.records import Record


def to_frame(table: pa.Table, record: Record) -> pd.DataFrame:
    """Return `table` as a DataFrame indexed by the record's time.

    The index is a DatetimeIndex in UTC, ascending; rows of one time keep their order. The other columns have
    the dtypes of `record.pandas_dtypes`. `table` must hold the time column; it may lack others.
    """
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    dtypes = {name: dtype for name, dtype in record.pandas_dtypes.items() if name in frame.columns}
    wrong = {name: dtype for name, dtype in dtypes.items() if str(frame[name].dtype) != dtype}
    if wrong:
        frame = frame.astype(wrong)
    frame = frame.set_index(record.time)
    return frame if frame.index.is_monotonic_increasing else frame.sort_index(kind="stable")
