"""The stores under test, and the fixtures and helpers that the store's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from resources.datasets import Partition
from resources.ledger import LedgerEntry
from resources.records import TRADE
from resources.settings import load_settings
from resources.store import open_store
from resources.store.port import Store, Stored
from tests.contract.adapters import on_every
from tests.contract.rows import BTC


@asynccontextmanager
async def lake_store(home: Path) -> AsyncIterator[dict[str, Any]]:
    yield {"store": "lake", "home": home}


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[dict[str, Any]]]] = {"lake": lake_store}
"""Each yields the settings of an empty store; other processes open the same store by them."""

overrides = on_every(STORES)


@pytest.fixture
async def store(overrides: dict[str, Any]) -> AsyncIterator[Store]:
    async with open_store(load_settings(**overrides)) as opened:
        yield opened


async def held(store: Store, partition: Partition = BTC) -> dict[int, float]:
    """Trade id to price, after making sure that a read and a scan tell the same, in order."""
    table = await store.read("trades", [partition.symbol], partition.start, partition.end)
    assert table.schema == TRADE.schema
    batches = [batch async for batch in store.scan(partition, ["price", "trade_id"])]
    assert all(batch.schema.names == ["trade_id", "price"] for batch in batches)
    ids = table["trade_id"].to_pylist()
    assert ids == sorted(set(ids))
    assert ids == [value for batch in batches for value in batch["trade_id"].to_pylist()]
    prices = table["price"].to_pylist()
    assert prices == [value for batch in batches for value in batch["price"].to_pylist()]
    stored = await store.stored(partition)
    assert (stored.rows if stored else 0) == len(ids)
    return dict(zip(ids, prices, strict=True))


def entry(stored: Stored, **changes: Any) -> LedgerEntry:
    partition = stored.partition
    values = {
        "dataset": partition.dataset,
        "symbol": partition.symbol,
        "day": partition.day,
        "rows": stored.rows,
        "expected": stored.rows,
        "written_at": datetime(2024, 8, 2, tzinfo=UTC),
        "version": stored.version,
    }
    return LedgerEntry(**{**values, **changes})
