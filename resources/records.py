"""The market records: one definition each, from which Arrow schema, pandas dtypes and documentation come.

Times are UTC, microseconds. Prices and sizes are float64: a Binance decimal has at most 15 significant
digits and survives the round trip (tests/unit/test_parse.py holds the property).
"""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")
LABEL = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, slots=True)
class Field:
    """One column: its Arrow type, unit and meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str

    @property
    def pandas_dtype(self) -> str:
        """The dtype of this column in a DataFrame that StreamForge returns."""
        if pa.types.is_dictionary(self.type):
            return "category"
        if pa.types.is_timestamp(self.type):
            return "datetime64[us, UTC]"
        return {"double": "float64"}.get(str(self.type), str(self.type))


@dataclass(frozen=True)
class Record:
    """A kind of row: its columns in order, the columns that identify it, and the column that dates it.

    `version` is the column that only grows while a row is replaced by newer ones with the same key: of two, the
    one with the lower version is the older. None: such a row never changes.
    """

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    time: str
    version: str | None = None

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema. No column is nullable."""
        return pa.schema([pa.field(f.name, f.type, nullable=False) for f in self.fields])

    @property
    def order(self) -> str:
        """The column that orders the rows of one symbol and day, and identifies each of them."""
        return self.key[-1]

    @property
    def pandas_dtypes(self) -> dict[str, str]:
        """Column name to dtype, as in the DataFrames that StreamForge returns."""
        return {f.name: f.pandas_dtype for f in self.fields}

    def markdown(self) -> str:
        """The columns as a Markdown table, for the documentation."""
        rows = [
            f"| `{f.name}`{' (key)' if f.name in self.key else ''} | `{f.type}` | `{f.pandas_dtype}` "
            f"| {f.unit} | {f.meaning} |"
            for f in self.fields
        ]
        return "\n".join(["| column | Arrow | pandas | unit | meaning |", "|---|---|---|---|---|", *rows])


CANDLE = Record(
    name="candle",
    key=("symbol", "interval", "open_time"),
    time="open_time",
    version="trade_count",
    fields=(
        Field("symbol", LABEL, "", "trading pair, as the exchange writes it"),
        Field("interval", LABEL, "", "length of the candle, such as 5m"),
        Field("open_time", TIME, "UTC", "start of the candle, on the interval's grid"),
        Field("open", pa.float64(), "quote", "price of the first trade"),
        Field("high", pa.float64(), "quote", "highest price"),
        Field("low", pa.float64(), "quote", "lowest price"),
        Field("close", pa.float64(), "quote", "price of the last trade"),
        Field("volume", pa.float64(), "base", "quantity traded"),
        Field("close_time", TIME, "UTC", "last millisecond of the candle"),
        Field("quote_volume", pa.float64(), "quote", "sum of price times quantity"),
        Field("trade_count", pa.int64(), "trades", "number of single (not aggregate) trades"),
        Field("taker_buy_volume", pa.float64(), "base", "quantity whose taker bought"),
        Field("taker_buy_quote_volume", pa.float64(), "quote", "price times quantity whose taker bought"),
    ),
)

TRADE = Record(
    name="trade",
    key=("symbol", "trade_id"),
    time="time",
    fields=(
        Field("symbol", LABEL, "", "trading pair, as the exchange writes it"),
        Field("trade_id", pa.int64(), "", "aggregate trade id: consecutive within a symbol"),
        Field("time", TIME, "UTC", "when the trade happened"),
        Field("price", pa.float64(), "quote", "price of the trade"),
        Field("quantity", pa.float64(), "base", "quantity traded"),
        Field("first_trade_id", pa.int64(), "", "first single trade in this aggregate"),
        Field("last_trade_id", pa.int64(), "", "last single trade in this aggregate"),
        Field("is_buyer_maker", pa.bool_(), "", "true when the taker sold"),
    ),
)

RECORDS = {record.name: record for record in (CANDLE, TRADE)}
