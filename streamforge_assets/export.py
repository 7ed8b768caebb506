"""Stored rows as one file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from resources.datasets import DAY, Dataset, midnight
from resources.errors import Rejected, Unavailable
from resources.store.port import Store


async def export_rows(
    store: Store, dataset: Dataset, symbols: Sequence[str], wanted: Iterable[date], path: Path
) -> int:
    """Write the rows of `symbols` on the days `wanted` to `path`, symbol by symbol; returns how many.

    Raises:
        Rejected: when the file's ending is neither .parquet nor .csv, or nothing is stored.
        Unavailable: when the file cannot be written.
    """
    rows = 0
    part = path.with_name(f".{path.name}.part")
    schema = dataset.record.schema
    try:
        with _writer(part, path.suffix, schema) as writer:
            for symbol in symbols:
                for day in wanted:
                    table = await store.read(dataset.name, [symbol], midnight(day), midnight(day) + DAY)
                    if table.num_rows:
                        await asyncio.to_thread(writer.write_table, _plain(table, schema, path.suffix))
                    rows += table.num_rows
        if not rows:
            raise Rejected(f"nothing is stored of {dataset.name} {', '.join(symbols)} in that range")
        part.replace(path)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return rows


@contextlib.contextmanager
def _writer(
    part: Path, suffix: str, schema: pa.Schema
) -> Iterator[pyarrow.parquet.ParquetWriter | pyarrow.csv.CSVWriter]:
    if suffix == ".parquet":
        with pyarrow.parquet.ParquetWriter(part, schema) as parquet:
            yield parquet
    elif suffix == ".csv":
        with pyarrow.csv.CSVWriter(part, _without_labels(schema)) as csv:
            yield csv
    else:
        raise Rejected(f"a file that ends in {suffix or 'nothing'} cannot be written; .parquet and .csv can")


def _plain(table: pa.Table, schema: pa.Schema, suffix: str) -> pa.Table:
    return table.cast(schema if suffix == ".parquet" else _without_labels(schema))


def _without_labels(schema: pa.Schema) -> pa.Schema:
    """The schema with text in place of dictionaries, which CSV does not know."""
    return pa.schema([f.with_type(pa.string()) if pa.types.is_dictionary(f.type) else f for f in schema])
