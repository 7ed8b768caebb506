"""A simulated exchange of a few symbols in this process, settings that point to it, and the truth to compare with.

The `conftest.py` of a folder whose tests need these fixtures imports them by name.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from anyio.from_thread import start_blocking_portal

from resources.datasets import days, midnight, parse_dataset
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.client import StreamForge
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.server import SimulatedExchange

CONFIG = SimulatorConfig(symbols=3, seed=11, trades_scale=0.1, first_day=date(2024, 7, 1))
START, END = date(2024, 8, 1), date(2024, 8, 4)
SYMBOL = CONFIG.instruments[2].symbol


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the simulated exchange keeps what it has made, shared by all tests."""
    return tmp_path_factory.mktemp("simulator")


@pytest.fixture
def exchange(made: Path) -> Iterator[SimulatedExchange]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve(made)) as served:
        yield served


@pytest.fixture
def settings(exchange: SimulatedExchange, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        exchange="binance",  # one that is there already, so that nothing is started
        rest_url=exchange.rest_url,
        archive_url=exchange.archive_url,
        start_date=CONFIG.first_day,
        request_attempts=3,
        request_timeout=5.0,
    )


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make another process, or a command, use `settings`."""
    return {
        "STREAMFORGE_HOME": str(settings.home),
        "STREAMFORGE_EXCHANGE": settings.exchange,
        "STREAMFORGE_REST_URL": settings.rest_url,
        "STREAMFORGE_ARCHIVE_URL": settings.archive_url,
        "STREAMFORGE_START_DATE": str(settings.start_date),
        "STREAMFORGE_LAUNCHER": settings.launcher,
        "STREAMFORGE_BUS": settings.bus,
        "STREAMFORGE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
    }


@pytest.fixture
def client(settings: Settings) -> StreamForge:
    return StreamForge(settings)


@asynccontextmanager
async def serve(folder: Path, config: SimulatorConfig = CONFIG) -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(config, folder) as served:
        yield served


async def stored_rows(settings: Settings, dataset: str, symbol: str, start: date, end: date) -> pa.Table:
    async with open_store(settings) as store:
        return await store.read(dataset, [symbol], midnight(start), midnight(end))


def true_rows(exchange: SimulatedExchange, dataset: str, symbol: str, start: date, end: date) -> pa.Table:
    interval = parse_dataset(dataset).interval
    market = exchange.market
    tables = [
        market.candles(symbol, interval, day) if interval else market.trades(symbol, day)
        for day in days(start, end)
    ]
    return pa.concat_tables(tables)


def assert_same(stored: pa.Table, truth: pa.Table) -> None:
    """Row for row, value for value."""
    assert stored.num_rows == truth.num_rows
    for name in truth.schema.names:
        assert stored[name].to_pylist() == truth[name].to_pylist(), f"column {name} differs"
