"""Live rows: one JSON object a message, `content-type: application/json`, headers `kind: row` and `dataset`.

The object has the record's columns, times as whole microseconds since the epoch. Key = symbol, so the rows of one
symbol keep their order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from resources.bus.port import Message
from resources.datasets import Dataset, parse_dataset
from resources.errors import Rejected
from resources.pages import JSON


def row_message(dataset: Dataset, row: Mapping[str, Any]) -> Message:
    """The message that carries one row."""
    headers = {"kind": "row", "content-type": JSON, "dataset": dataset.name}
    return Message(json.dumps(row).encode(), str(row.get("symbol", "")), headers)


def decode_row(message: Message) -> tuple[Dataset, dict[str, Any]]:
    """The dataset and the row that a message carries.

    Raises:
        Rejected: it is no JSON object with exactly the record's columns and finite numbers, or names no dataset.
    """
    dataset = parse_dataset(message.headers.get("dataset", ""))
    if not message.value:
        # What Kafka calls a tombstone: elsewhere it deletes the document of the message's key.
        raise Rejected(f"a row of {dataset.name} is empty; market data are never deleted by a message")
    try:
        row = json.loads(message.value)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"a row of {dataset.name} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise Rejected(f"a row of {dataset.name} must be a JSON object; it is {type(row).__name__}")
    columns = dataset.record.schema.names
    missing, unknown = sorted(set(columns) - row.keys()), sorted(row.keys() - set(columns))
    if missing or unknown:
        raise Rejected(
            f"a row of {dataset.name} has the wrong columns: missing {missing or 'none'}, "
            f"unknown {unknown or 'none'}"
        )
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise Rejected(f"a row of {dataset.name} has the {name} {value}; it must be a finite number")
    return dataset, row


def rows_table(dataset: Dataset, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Decoded rows as one table. Raises Rejected when a value is not of its column's type."""
    try:
        return pa.Table.from_pylist(rows, schema=dataset.record.schema)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise Rejected(f"a row of {dataset.name} has a value of the wrong type: {error}") from error
