"""From the exchange's bytes to records: pure, columnar, and strict, so that garbage never passes as a record.

A table comes out with the schema of `resources.records`, or Rejected names the first row that is wrong. What a
single row cannot tell is left to the caller: doubled, reordered and absent rows pass unchanged.
Times are milliseconds or microseconds, told apart by magnitude (archive files of spot markets count
microseconds from 2025 on). Sources: binance-spot-api-docs `rest-api.md`, binance-public-data `README.md`.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from resources.datasets import INTERVALS, midnight, to_us
from resources.errors import Rejected
from resources.exchange.port import ArchiveFile
from resources.records import CANDLE, TIME, TRADE, Record

BLOCK = 1 << 21
"""Bytes of CSV that are parsed at once: some 25 000 trades."""

_LONGEST_LINE = 1 << 16
_MICROSECONDS_FROM = 10**14  # as milliseconds the year 5138, as microseconds 1973
_SANE_US = (1_230_768_000_000_000, 4_102_444_800_000_000)  # 2009 to 2100
_HEADER = re.compile(rb"[A-Za-z][A-Za-z_ ]*")
_BOM = b"\xef\xbb\xbf"

_INT, _FLOAT, _BOOL = pa.int64(), pa.float64(), pa.bool_()

_TRADE_COLUMNS: dict[str, pa.DataType] = {
    "trade_id": _INT,
    "price": _FLOAT,
    "quantity": _FLOAT,
    "first_trade_id": _INT,
    "last_trade_id": _INT,
    "time": _INT,
    "is_buyer_maker": _BOOL,
}
_CANDLE_COLUMNS: dict[str, pa.DataType] = {
    "open_time": _INT,
    "open": _FLOAT,
    "high": _FLOAT,
    "low": _FLOAT,
    "close": _FLOAT,
    "volume": _FLOAT,
    "close_time": _INT,
    "quote_volume": _FLOAT,
    "trade_count": _INT,
    "taker_buy_volume": _FLOAT,
    "taker_buy_quote_volume": _FLOAT,
}
_TRADE_KEYS = itemgetter("a", "p", "q", "f", "l", "T", "m")

Column = npt.NDArray[Any]


class _BadRowError(ValueError):
    """What is wrong with a row of the table being checked."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """What every row must agree with: the labels, the allowed times [start, end) in µs, the candle's length."""

    record: Record
    labels: tuple[tuple[str, str], ...]
    start: int
    end: int
    step: int = 0

    @property
    def columns(self) -> dict[str, pa.DataType]:
        return _TRADE_COLUMNS if self.record is TRADE else _CANDLE_COLUMNS


def parse_trades(body: bytes, symbol: str) -> pa.Table:
    """Turn an answer of `GET /api/v3/aggTrades` into trades (schema `TRADE.schema`), in the answer's order.

    Raises:
        Rejected: the body is not a list of valid aggregate trades; names the row (from 1) and the fault.
    """
    frame = _Frame(TRADE, (("symbol", symbol),), *_SANE_US)
    where = f"aggTrades of {symbol}"
    try:
        rows = [_TRADE_KEYS(row) for row in _json_rows(body, dict, where)]
    except KeyError as error:
        raise Rejected(f"{where}: a row lacks the field {error}; the answer is no list of trades") from error
    return _from_rows(rows, frame, where)


def parse_candles(body: bytes, symbol: str, interval: str) -> pa.Table:
    """Turn an answer of `GET /api/v3/klines` into candles (schema `CANDLE.schema`), in the answer's order.

    Raises:
        Rejected: the body is not a list of valid candles of `interval`; names the row (from 1) and the fault.
    """
    frame = _candle_frame(symbol, interval, *_SANE_US)
    where = f"klines {interval} of {symbol}"
    rows = _json_rows(body, list, where)
    if any(len(row) != 12 for row in rows):
        raise Rejected(f"{where}: a row has not 12 fields; the answer is no list of candles")
    return _from_rows([row[:11] for row in rows], frame, where)


def read_archive(file: ArchiveFile) -> Iterator[pa.Table]:
    """Parse a day's zip in tables of at most some ten thousand rows, in the file's own order.

    The CSV is streamed out of the zip and never held whole. A header row may be there or not; aggregate trades
    have 8 columns, or 7 without the last. Rows before a fault are yielded before it is found.

    Raises:
        Rejected: naming file, row (from 1, a header counts) and fault, for a broken zip or a row that is no
            valid record of this symbol and day.
    """
    start = to_us(midnight(file.day))
    end = start + 86_400_000_000
    if file.dataset.interval is None:
        frame = _Frame(TRADE, (("symbol", file.symbol),), start, end)
    else:
        frame = _candle_frame(file.symbol, file.dataset.interval, start, end)
    name = file.path.name
    try:
        with zipfile.ZipFile(file.path) as archive:
            members = archive.namelist()
            if len(members) != 1:
                raise Rejected(f"{name} holds {len(members)} files; an archive file holds one CSV")
            with archive.open(members[0]) as stream:
                yield from _read_csv(stream, frame, name)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise Rejected(f"{name} is not a readable zip file: {error}") from error


def _candle_frame(symbol: str, interval: str, start: int, end: int) -> _Frame:
    step = int(INTERVALS[interval].total_seconds()) * 1_000_000
    return _Frame(CANDLE, (("symbol", symbol), ("interval", interval)), start, end, step)


# --- CSV ---------------------------------------------------------------------------------------------------


def _read_csv(stream: IO[bytes], frame: _Frame, name: str) -> Iterator[pa.Table]:
    names: list[str] = []
    scale = 0
    row = 1
    for block in _blocks(stream, name):
        lines = block
        if not names:
            lines, names, header = _sniff(block, frame, name)
            row += header
            scale = _csv_scale(lines, names.index(frame.record.time))
            if not lines:
                continue
        try:
            table = _csv_table(lines, names, frame, scale)
        except (pa.ArrowInvalid, _BadRowError):
            number, fault = _first_fault(lines, partial(_csv_table, names=names, frame=frame, scale=scale))
            raise Rejected(f"{name}, row {row + number}: {fault}") from None
        row += table.num_rows
        yield table


def _blocks(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Cut the stream into blocks of whole lines, one read ahead: inflating and parsing then overlap."""

    def read() -> bytes:
        block = stream.read(BLOCK)
        return block if block.endswith(b"\n") or not block else block + stream.readline(_LONGEST_LINE)

    with ThreadPoolExecutor(1, "streamforge-inflate") as ahead:
        coming = ahead.submit(read)
        while block := coming.result():
            coming = ahead.submit(read)
            if len(block) >= BLOCK + _LONGEST_LINE:
                raise Rejected(f"{name} has a line of {_LONGEST_LINE} bytes; it is no CSV of market data")
            yield block


def _sniff(block: bytes, frame: _Frame, name: str) -> tuple[bytes, list[str], int]:
    """Return the block without its header row, the column names, and how many header rows there were."""
    block = block.removeprefix(_BOM)
    first, _, rest = block.partition(b"\n")
    fields = first.strip(b"\r").split(b",")
    header = all(_HEADER.fullmatch(field.strip(b'" ')) for field in fields)
    known = list(frame.columns)
    allowed = (7, 8) if frame.record is TRADE else (12,)
    if len(fields) not in allowed:
        raise Rejected(f"{name}, row 1 has {len(fields)} columns; {' or '.join(map(str, allowed))} are expected")
    names = known + [f"ignored_{i}" for i in range(len(fields) - len(known))]
    return (rest, names, 1) if header else (block, names, 0)


def _csv_scale(lines: bytes, column: int) -> int:
    """Microseconds per unit of the file's times, by the first row."""
    fields = lines.partition(b"\n")[0].split(b",")
    value = fields[column].strip() if column < len(fields) else b""
    return 1 if value.isdigit() and int(value) >= _MICROSECONDS_FROM else 1000


def _csv_table(lines: bytes, names: list[str], frame: _Frame, scale: int) -> pa.Table:
    table = csv.read_csv(
        cast("IO[bytes]", pa.BufferReader(lines)),
        read_options=csv.ReadOptions(use_threads=False, block_size=len(lines) + 1, column_names=names),
        parse_options=csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=frame.columns,
            include_columns=list(frame.columns),
            null_values=[],
            true_values=["True", "true"],
            false_values=["False", "false"],
        ),
    )
    return _checked(table, frame, scale)


def _first_fault(lines: bytes, parse: Callable[[bytes], object]) -> tuple[int, str]:
    """Find the first bad row (from 0) by bisection, so that the checks themselves need not look for it."""
    every = lines.splitlines(keepends=True)

    def fault(low: int, high: int) -> str:
        try:
            parse(b"".join(every[low:high]))
        except (pa.ArrowInvalid, _BadRowError) as error:
            return re.sub(r"Row #\d+: ", "", str(error).splitlines()[0])[:200]
        return ""

    good, bad = 0, len(every)  # the first `good` rows pass, the first `bad` do not
    while bad - good > 1:
        middle = (good + bad) // 2
        if fault(good, middle):
            bad = middle
        else:
            good = middle
    return good, fault(good, bad) or fault(0, len(every))


# --- JSON --------------------------------------------------------------------------------------------------


def _json_rows(body: bytes, kind: type, where: str) -> list[Any]:
    try:
        rows = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"{where}: the answer is not JSON: {error}") from error
    if not isinstance(rows, list) or not set(map(type, rows)) <= {kind}:
        raise Rejected(f"{where}: the answer is not a list of rows but {body[:80]!r}")
    return rows


def _from_rows(rows: Sequence[Sequence[object]], frame: _Frame, where: str) -> pa.Table:
    try:
        return _rows_table(rows, frame)
    except (pa.ArrowException, _BadRowError, ValueError, TypeError, OverflowError):
        for number, row in enumerate(rows, 1):
            try:
                _rows_table([row], frame)
            except (pa.ArrowException, _BadRowError, ValueError, TypeError, OverflowError) as error:
                raise Rejected(f"{where}, row {number}: {error}") from error
        raise Rejected(f"{where}: the rows count time in different units") from None


def _rows_table(rows: Sequence[Sequence[object]], frame: _Frame) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(frame.columns)
    arrays = [
        _json_column(name, values, kind)
        for (name, kind), values in zip(frame.columns.items(), columns, strict=True)
    ]
    table = pa.Table.from_arrays(arrays, names=list(frame.columns))
    times = columns[list(frame.columns).index(frame.record.time)]
    return _checked(table, frame, 1 if times and times[0] >= _MICROSECONDS_FROM else 1000)


def _json_column(name: str, values: Sequence[Any], kind: pa.DataType) -> pa.Array[Any]:
    """Decimals come as text; pyarrow would round a float to an integer in silence, so types are checked."""
    wanted = {_INT: int, _FLOAT: str, _BOOL: bool}[kind]
    if not set(map(type, values)) <= {wanted}:
        raise _BadRowError(f"{name} is not {wanted.__name__}")
    if kind is _FLOAT:
        return pa.array(values, pa.string()).cast(_FLOAT)
    return pa.array(values, kind)


# --- checks ------------------------------------------------------------------------------------------------


def _checked(raw: pa.Table, frame: _Frame, scale: int) -> pa.Table:
    """Check every row and give the table its record's schema. An empty table is valid."""
    raw = raw.combine_chunks()
    columns: dict[str, pa.Array[Any]] = {
        name: cast("pa.Array[Any]", raw.column(name).chunk(0) if raw.num_rows else pa.array([], kind))
        for name, kind in frame.columns.items()
    }
    numbers: dict[str, Column] = {
        name: array.to_numpy() for name, array in columns.items() if frame.columns[name] is not _BOOL
    }
    if raw.num_rows:
        check = _check_trades if frame.record is TRADE else _check_candles
        check(numbers, frame, scale)
    times = [field.name for field in frame.record.fields if field.type == TIME]
    for name in times:
        micros = numbers[name] * scale if scale != 1 else numbers[name]
        if name == "close_time" and scale == 1:
            micros = micros // 1000 * 1000  # .999999 of a microsecond file: the record says last millisecond
        columns[name] = pa.array(micros).view(TIME)
    labels = dict(frame.labels)
    rows = raw.num_rows
    arrays = [
        _label(labels[field.name], rows) if field.name in labels else columns[field.name]
        for field in frame.record.fields
    ]
    return pa.Table.from_arrays(arrays, schema=frame.record.schema)


def _check_trades(numbers: dict[str, Column], frame: _Frame, scale: int) -> None:
    _check_times(numbers["time"], "time", frame, scale)
    _expect(_positive, numbers, "price", "is not a finite number above zero")
    _expect(_positive, numbers, "quantity", "is not a finite number above zero")
    _expect(_natural, numbers, "trade_id", "is negative")
    _expect(_natural, numbers, "first_trade_id", "is negative")
    if not (numbers["last_trade_id"] >= numbers["first_trade_id"]).all():
        raise _BadRowError("last_trade_id is before first_trade_id")


def _check_candles(numbers: dict[str, Column], frame: _Frame, scale: int) -> None:
    opens = numbers["open_time"]
    _check_times(opens, "open_time", frame, scale)
    step = frame.step // scale
    if (opens % step).any():
        raise _BadRowError("open_time is not on the grid of the interval")
    last = 1000 if scale == 1 else 1
    closes = numbers["close_time"]
    if not (closes // last * last == opens + (step - last)).all():
        raise _BadRowError("close_time is not the last millisecond of the candle")
    for name in ("open", "high", "low", "close"):
        _expect(_positive, numbers, name, "is not a finite number above zero")
    for name in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"):
        _expect(_not_negative, numbers, name, "is not a finite number of at least zero")
    _expect(_natural, numbers, "trade_count", "is negative")
    if not (numbers["high"] >= np.maximum(numbers["open"], numbers["close"])).all():
        raise _BadRowError("high is below open or close")
    if not (numbers["low"] <= np.minimum(numbers["open"], numbers["close"])).all():
        raise _BadRowError("low is above open or close")


def _check_times(values: Column, name: str, frame: _Frame, scale: int) -> None:
    if not (values.min() >= frame.start // scale and values.max() < frame.end // scale):
        raise _BadRowError(f"{name} is outside the day that was asked for, or no time at all")


def _expect(holds: Callable[[Column], bool], numbers: dict[str, Column], name: str, fault: str) -> None:
    if not holds(numbers[name]):
        raise _BadRowError(f"{name} {fault}")


def _positive(values: Column) -> bool:
    return bool(values.min() > 0 and values.max() < np.inf)  # NaN wins min(), and compares false


def _not_negative(values: Column) -> bool:
    return bool(values.min() >= 0 and values.max() < np.inf)


def _natural(values: Column) -> bool:
    return bool(values.min() >= 0)


def _label(value: str, rows: int) -> pa.DictionaryArray[Any, Any]:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([value]))
