"""What travels on a workflow's data topic: Arrow pages of history, and the loader's word on each day.

Every message carries the headers `kind`, `dataset`, `symbol`, `date` and `attempt`. `attempt` counts the
loaders of the workflow, so that a late message of one that was replaced can be told and ignored. Pages are
numbered within their day in the header `page`, and the word on the day says how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from resources.bus.port import MAX_MESSAGE_BYTES, Message
from resources.datasets import Partition
from resources.errors import Rejected
from resources.ledger import Explained, Proof, Span

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"

Kind = Literal["page", "reset", "day", "end"]


class DayReport(BaseModel):
    """The loader's word on one day, after its pages: where the rows come from and what explains holes.

    `pages` is how many pages it has; None where a loader does not say. `failure` is the sentence why the day could
    not be loaded. `edge_missing` are ids that the exchange dates
    inside the day, before its first or after its last row, and that could not be had.
    """

    model_config = ConfigDict(frozen=True)

    source: str = ""
    source_checksum: str = ""
    bytes: int = 0
    seconds: float = 0.0
    explained: tuple[Explained, ...] = ()
    edge_missing: tuple[Span, ...] = ()
    start_proof: Proof = "not needed"
    end_proof: Proof = "not needed"
    replace: bool = False
    pages: int | None = None
    failure: str = ""


def encode_pages(rows: pa.Table, partition: Partition, attempt: int, first: int = 0) -> Iterator[Message]:
    """Yield `rows` as Arrow IPC streams, each below the bus's limit, in order, numbered from `first` on."""
    if rows.num_rows == 0:
        return
    per_row = rows.nbytes / rows.num_rows
    size = max(1, int(0.9 * MAX_MESSAGE_BYTES / max(per_row, 1.0)))
    for number, start in enumerate(range(0, rows.num_rows, size), first):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            for batch in rows.slice(start, size).combine_chunks().to_batches():
                writer.write_batch(batch)
        headers = _headers("page", partition, attempt, ARROW) | {"page": str(number)}
        yield Message(sink.getvalue().to_pybytes(), partition.symbol, headers)


def page_number(message: Message) -> int | None:
    """The number of a page within its day; None where its loader does not say. Raises Rejected when it is none."""
    number = message.headers.get("page")
    if number is not None and not (number.isascii() and number.isdecimal()):
        raise Rejected(f"a data page has the number {number!r}")
    return None if number is None else int(number)


def decode_page(message: Message) -> pa.Table:
    """Return the rows of a page. Raises Rejected when it is not an Arrow stream, or a broken one."""
    try:
        rows = pa.ipc.open_stream(message.value).read_all()
        # Only a whole look finds labels that point nowhere; following one later may take the process with it.
        rows.validate(full=True)
        _ = rows.schema.names
        return rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Rejected(f"a data page is not an Arrow IPC stream: {error}") from error


def day_message(report: DayReport, partition: Partition, attempt: int) -> Message:
    """The message that closes one day."""
    body = report.model_dump_json().encode()
    return Message(body, partition.symbol, _headers("day", partition, attempt, JSON))


def decode_day(message: Message) -> DayReport:
    """Return the loader's word on a day. Raises Rejected when it is none."""
    try:
        return DayReport.model_validate_json(message.value)
    except ValidationError as error:
        raise Rejected(f"a day report is not valid: {error.errors()[0]['msg']}") from error


def reset_message(partition: Partition, attempt: int) -> Message:
    """The message that takes back the day's pages so far: their source turned out to be broken."""
    return Message(b"", partition.symbol, _headers("reset", partition, attempt, JSON))


def end_message(partition: Partition, attempt: int) -> Message:
    """The message after the last day of a loader."""
    return Message(b"", partition.symbol, _headers("end", partition, attempt, JSON))


def page_partition(message: Message) -> Partition:
    """The partition that a data message belongs to. Raises Rejected when its headers do not say."""
    try:
        headers = message.headers
        return Partition(headers["dataset"], headers["symbol"], date.fromisoformat(headers["date"]))
    except (KeyError, ValueError) as error:
        raise Rejected(f"a data message does not say which partition it belongs to: {error}") from error


def _headers(kind: Kind, partition: Partition, attempt: int, content: str) -> dict[str, str]:
    return {
        "kind": kind,
        "content-type": content,
        "dataset": partition.dataset,
        "symbol": partition.symbol,
        "date": partition.day.isoformat(),
        "attempt": str(attempt),
    }
