"""What the lake does with rows in memory: check them, order them, merge them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from resources.datasets import Dataset, Partition, to_us
from resources.errors import Rejected
from resources.records import LABEL, Record

Keys = npt.NDArray[np.int64]
DAY_US = 86_400_000_000


def conform(rows: pa.Table, dataset: Dataset) -> pa.Table:
    """The same rows with the columns in the record's order and types.

    Raises:
        Rejected: a column is missing, unknown, of another type, or holds a null, or the interval is not the
            dataset's.
    """
    schema = dataset.record.schema
    if set(rows.column_names) != set(schema.names) or len(rows.column_names) != len(schema.names):
        missing = sorted(set(schema.names) - set(rows.column_names))
        extra = sorted(set(rows.column_names) - set(schema.names))
        raise Rejected(
            f"rows of {dataset.name} have the wrong columns: missing {missing or 'none'}, "
            f"unknown {extra or 'none'}; expected {', '.join(schema.names)}"
        )
    columns = []
    for field in schema:
        column = rows.column(field.name)
        if column.null_count:
            raise Rejected(f"rows of {dataset.name} hold {column.null_count} nulls in {field.name}; none may")
        if column.type != field.type:
            column = _as_type(column, field, dataset.name)
        columns.append(column)
    result = pa.Table.from_arrays(columns, schema=schema)
    if dataset.interval:
        _require_label(result, "interval", dataset.interval, dataset.name)
    return result


def require_partition(rows: pa.Table, partition: Partition, record: Record) -> None:
    """Raises Rejected when a row of the conforming `rows` belongs to another symbol or day."""
    if not rows.num_rows:
        return
    _require_label(rows, "symbol", partition.symbol, str(partition))
    times = as_keys(rows.column(record.time))
    low, high = int(times.min()), int(times.max())
    start = to_us(partition.start)
    if low < start or high >= start + DAY_US:
        outside = np.datetime64(low if low < start else high, "us")
        raise Rejected(f"a row of {record.time} {outside} lies outside the partition {partition}")


def split(rows: pa.Table, record: Record) -> Iterator[tuple[str, int, pa.Table]]:
    """Yield symbol, day (since the epoch) and rows of each partition in the conforming `rows`."""
    symbols = rows.column("symbol").cast(pa.string())
    days = as_keys(rows.column(record.time)) // DAY_US
    for symbol in map(str, symbols.unique().to_pylist()):
        mine = np.asarray(pc.equal(symbols, pa.scalar(symbol)))
        for day in np.unique(days[mine]):
            yield symbol, int(day), rows.filter(pa.array(mine & (days == day)))


def as_keys(column: pa.ChunkedArray[Any]) -> Keys:
    """Ids or times as integers."""
    return np.asarray(column.cast(pa.int64()).to_numpy())


def ascending(keys: Keys) -> bool:
    """Whether each key is greater than the one before."""
    return bool(np.all(keys[1:] > keys[:-1]))


def last_wins(rows: pa.Table, order: str) -> pa.Table:
    """The rows sorted by `order`, of each key only the last one given."""
    keys = as_keys(rows.column(order))
    if ascending(keys):
        return rows
    positions = np.argsort(keys, kind="stable")
    keys = keys[positions]
    last = np.append(keys[1:] != keys[:-1], True)
    return rows.take(pa.array(positions[last]))


def newest(rows: pa.Table, record: Record) -> pa.Table:
    """The rows sorted by key, of each key the one with the highest version; of equal ones the last one given."""
    if record.version is not None:
        versions = as_keys(rows.column(record.version))
        rows = rows.take(pa.array(np.argsort(versions, kind="stable")))
    return last_wins(rows, record.order)


def without_older(rows: pa.Table, stored: Iterator[pa.Table], record: Record) -> pa.Table:
    """Those of `rows` (in key order) whose version is not lower than that of the stored row with their key.

    `stored` are tables in key order, with at least the columns of the key's order and of the version.
    """
    if record.version is None:
        return rows
    keys, versions = as_keys(rows.column(record.order)), as_keys(rows.column(record.version))
    kept = np.ones(len(keys), dtype=bool)
    for table in filter(len, stored):
        theirs = as_keys(table.column(record.order))
        at = np.minimum(np.searchsorted(theirs, keys), len(theirs) - 1)
        kept &= (theirs[at] != keys) | (versions >= as_keys(table.column(record.version))[at])
    return rows if kept.all() else rows.filter(pa.array(kept))


def merge(older: Iterator[pa.Table], newer: Iterator[pa.Table], order: str) -> Iterator[pa.Table]:
    """Merge two streams of tables, each in strict key order; of equal keys the newer row counts.

    Holds one table of each stream at a time.
    """
    older, newer = (filter(len, older), filter(len, newer))
    left, right = next(older, None), next(newer, None)
    while left is not None and right is not None:
        left_keys, right_keys = as_keys(left.column(order)), as_keys(right.column(order))
        cut = min(left_keys[-1], right_keys[-1])
        take_left = int(np.searchsorted(left_keys, cut, side="right"))
        take_right = int(np.searchsorted(right_keys, cut, side="right"))
        yield last_wins(pa.concat_tables([left.slice(0, take_left), right.slice(0, take_right)]), order)
        left = left.slice(take_left) if take_left < len(left) else next(older, None)
        right = right.slice(take_right) if take_right < len(right) else next(newer, None)
    for rest, stream in ((left, older), (right, newer)):
        if rest is not None:
            yield rest
            yield from stream


def constant(value: str, length: int) -> pa.DictionaryArray[Any, Any]:
    """A label column that says `value` in each row."""
    return labels_column([value], [length])


def labels_column(values: list[str], counts: list[int]) -> pa.DictionaryArray[Any, Any]:
    """A label column that says each of `values` in as many rows as `counts` says."""
    codes: npt.NDArray[np.int32] = np.repeat(np.arange(len(values), dtype=np.int32), counts)
    return pa.DictionaryArray.from_arrays(codes, pa.array(values, pa.string()))


def with_labels(rows: pa.Table, labels: dict[str, str], names: list[str], record: Record) -> pa.Table:
    """The columns `names` of `rows`, the label columns among them filled with `labels`."""
    columns = [constant(labels[n], len(rows)) if n in labels else rows.column(n) for n in names]
    return pa.Table.from_arrays(columns, schema=pa.schema([record.schema.field(n) for n in names]))


def labels_of(dataset: Dataset, symbol: str) -> dict[str, str]:
    """The values of the label columns in a partition of `dataset` and `symbol`."""
    labels = {"symbol": symbol}
    if dataset.interval:
        labels["interval"] = dataset.interval
    return labels


def ordered_columns(record: Record, columns: list[str] | None) -> list[str]:
    """`columns` (None: all) in the record's order. Raises Rejected for one that the record does not have."""
    names = record.schema.names
    if columns is None:
        return list(names)
    for column in columns:
        if column not in names:
            raise Rejected(f"a {record.name} has no column {column!r}; it has {', '.join(names)}")
    return [name for name in names if name in columns]


def _as_type(column: pa.ChunkedArray[Any], field: pa.Field[Any], where: str) -> pa.ChunkedArray[Any]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if field.type == LABEL and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return column.cast(pa.string()).dictionary_encode()
    raise Rejected(f"{field.name} of {where} is {column.type}; it must be {field.type}")


def _require_label(rows: pa.Table, name: str, value: str, where: str) -> None:
    for chunk in rows.column(name).chunks:
        # A dictionary of one word needs no look at the rows.
        if isinstance(chunk, pa.DictionaryArray) and chunk.dictionary.to_pylist() == [value]:
            continue
        for word in chunk.unique().to_pylist():
            if word != value:
                raise Rejected(f"a row for {where} has the {name} {word!r} instead of {value!r}")
