"""Events, workflows and ledger entries for the sensors' tests, made by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from resources.bus import Delivery, Message, open_bus
from resources.datasets import Partition, parse_dataset
from resources.ledger import LedgerEntry, Span
from resources.messages import EVENTS_TOPIC, EventMessage, encode
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.workflow.states import WORKFLOWS, Workflow, new_workflow

SYMBOL = "BTCUSDT"
DAY = date(2024, 8, 1)
END = date(2024, 8, 4)


def event(day: date | None = DAY, *, status: str = "loading", queue_id: str = "wf-1", **more: Any) -> EventMessage:
    given = {"symbol": SYMBOL, "type": "api_trades", "message": "Wrote 10 records", "rows": 10, **more}
    return EventMessage(queue_id=queue_id, producer="arango-connector__1", status=status, partition=day, **given)


def message(one: EventMessage | bytes) -> Message:
    return Message(one) if isinstance(one, bytes) else Message(encode(one), one.queue_id)


def deliveries(events: Sequence[EventMessage | bytes], *, partition: int = 0, first: int = 0) -> list[Delivery]:
    return [
        Delivery(EVENTS_TOPIC, partition, first + number, 1000.0 + number, message(one))
        for number, one in enumerate(events)
    ]


def entry(day: date = DAY, *, version: str = "v1", missing: bool = False) -> LedgerEntry:
    spans = (Span(first=1, last=5, count=5),) if missing else ()
    return LedgerEntry(
        dataset="trades",
        symbol=SYMBOL,
        day=day,
        rows=10,
        expected=15 if missing else 10,
        missing=spans,
        written_at=datetime(2024, 8, 9, tzinfo=UTC),
        version=version,
        source="archive",
    )


def workflow(**changes: Any) -> Workflow:
    made = new_workflow(parse_dataset("trades"), SYMBOL, DAY, END, "{symbol}_{type}_{start}")
    return made.model_copy(update=changes)


def publish(settings: Settings, events: Iterable[EventMessage | bytes]) -> None:
    async def work() -> None:
        async with open_bus(settings) as bus:
            for one in events:
                await bus.publish(EVENTS_TOPIC, [message(one)])

    asyncio.run(work())


def keep(settings: Settings, *workflows: Workflow) -> None:
    async def work() -> None:
        async with open_store(settings) as store:
            for one in workflows:
                await store.put_document(WORKFLOWS, one.queue_id, one.model_dump(mode="json"))

    asyncio.run(work())


def kept(settings: Settings) -> dict[str, Workflow]:
    async def work() -> list[dict[str, Any]]:
        async with open_store(settings) as store:
            return await store.documents(WORKFLOWS)

    return {one["queue_id"]: Workflow.model_validate(one) for one in asyncio.run(work())}


def stored(settings: Settings, day: date, *, missing: bool = False) -> str:
    """Store a day of trades, and return its version."""
    import pyarrow as pa

    from resources.datasets import midnight
    from resources.records import TRADE

    async def work() -> str:
        partition = Partition("trades", SYMBOL, day)
        rows = pa.Table.from_pylist(
            [
                {
                    "symbol": SYMBOL,
                    "trade_id": 1,
                    "time": midnight(day),
                    "price": 1.0,
                    "quantity": 1.0,
                    "first_trade_id": 1,
                    "last_trade_id": 1,
                    "is_buyer_maker": False,
                }
            ],
            schema=TRADE.schema,
        )
        async with open_store(settings) as store:
            async with store.ingest(partition, replace=True) as ingest:
                await ingest.append(rows)
                made = await ingest.commit()
            await store.record([entry(day, version=made.version, missing=missing)])
            return made.version

    return asyncio.run(work())
