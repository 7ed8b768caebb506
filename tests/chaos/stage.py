"""What every experiment stands on: three brokers behind proxies, a simulated exchange, and its truth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from anyio.from_thread import BlockingPortal, start_blocking_portal

from resources.bus import open_bus
from resources.datasets import days, midnight
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.faults import Slow
from streamforge_assets.simulator.server import SimulatedExchange
from streamforge_assets.workflow.states import WORKFLOWS, Workflow
from tests.chaos.proxy import Proxy, Weather
from tests.servers.kafka import Kafka, free_ports

START = date(2024, 8, 1)
HELD_BACK = 8.0


@dataclass(frozen=True)
class SlowNetwork:
    """A network that adds `round_trip` seconds to a request and its answer.

    The slower it is, the fewer days are loaded over it, because they come one after another. Each of them has
    `busier` times the trades.
    """

    round_trip: float
    days: int
    busier: int


@dataclass(frozen=True)
class Size:
    """How much an experiment loads, and how much is done to it.

    Args:
        scale: factor on the number of trades.
        days: of each of the three symbols.
        kills: workers that are struck.
        pause: seconds between two kills, at most.
        slow: seconds by which each archive file is late, so that a small load lasts long enough to be struck.
        away: seconds that brokers are away.
        slow_networks: the networks of the latency experiment.
    """

    scale: float
    days: int
    kills: int
    pause: float
    slow: float
    away: float
    slow_networks: tuple[SlowNetwork, ...]

    @property
    def end(self) -> date:
        return START + timedelta(days=self.days)


SHORT = Size(
    scale=0.1, days=4, kills=3, pause=1.0, slow=0.4, away=3.0, slow_networks=(SlowNetwork(0.1, days=2, busier=2),)
)
FULL = Size(
    scale=3.0,
    days=30,
    kills=20,
    pause=1.0,
    slow=0.0,
    away=30.0,
    slow_networks=(SlowNetwork(0.05, 30, 1), SlowNetwork(0.5, 10, 3), SlowNetwork(2.0, 2, 15)),
)


@dataclass(frozen=True)
class Difference:
    """The store against the truth. `wrong` rows are there and differ, or should not be there."""

    rows: int
    lost: int
    twice: int
    wrong: int

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.rows + other.rows, self.lost + other.lost, self.twice + other.twice, self.wrong + other.wrong
        )


@dataclass
class Stage:
    """Three brokers and an exchange, shared by the experiments; each has a home folder of its own."""

    folder: Path
    size: Size
    kafka: Kafka
    exchange: SimulatedExchange
    proxies: list[Proxy]
    weather: Weather
    portal: BlockingPortal
    _homes: int = field(default=0)

    @contextlib.contextmanager
    def busier(self, days: int, times: int) -> Iterator[Stage]:
        """The same brokers and network, with an exchange of so many days and so many times the trades of each."""
        folder = self.folder / f"{times}-times-busier"
        size = replace(self.size, days=days, scale=self.size.scale * times)
        with _exchange(folder, size, self.portal) as exchange:
            stage = replace(self, folder=folder, size=size, exchange=exchange)
            stage.make_archive()
            yield stage

    @property
    def symbols(self) -> list[str]:
        return [instrument.symbol for instrument in self.exchange.config.instruments]

    def settings(self, **changes: object) -> Settings:
        """Settings with an empty home, for one experiment."""
        self._homes += 1
        return Settings(
            home=self.folder / f"home{self._homes}",
            exchange="binance",  # one that is there already, so that nothing is started
            rest_url=self.exchange.rest_url,
            archive_url=self.exchange.archive_url,
            start_date=self.exchange.config.first_day,
            bus="kafka",
            kafka_bootstrap=self.kafka.bootstrap,
            launcher="process",
            worker_attempts=20,
            **changes,  # type: ignore[arg-type]
        )

    def make_archive(self) -> None:
        """Have the exchange make all that is loaded, so that a load waits for nothing but its own work."""
        for symbol in self.symbols:
            for day in days(START, self.size.end):
                path = f"data/spot/daily/aggTrades/{symbol}/{symbol}-aggTrades-{day}.zip"
                with urlopen(f"{self.exchange.archive_url}/{path}") as answer:
                    answer.read()

    def hold_back(self, since: date | None) -> None:
        """Have the exchange keep the archive files of this day and later ones for a while; None: as before."""
        self.exchange.faults.clear()
        if self.size.slow:
            self.exchange.faults.add(Slow(where="archive", seconds=self.size.slow))
        if since is not None:
            for day in days(since, self.size.end):
                self.exchange.faults.add(Slow(where="archive", day=day, seconds=HELD_BACK))

    def cut(self) -> None:
        """Reset all connections to the brokers."""
        for proxy in self.proxies:
            self.portal.call(proxy.cut)

    def difference(self, settings: Settings, symbols: list[str]) -> Difference:
        """Compare all that was to be loaded with the truth, day by day."""
        return asyncio.run(self._difference(settings, symbols))

    async def _difference(self, settings: Settings, symbols: list[str]) -> Difference:
        total = Difference(0, 0, 0, 0)
        async with open_store(settings) as store:
            for symbol in symbols:
                entries = {e.day: e for e in await store.ledger("trades", symbol, START, self.size.end)}
                for day in days(START, self.size.end):
                    after = midnight(day + timedelta(days=1))
                    stored = await store.read("trades", [symbol], midnight(day), after)
                    truth = self.exchange.market.trades(symbol, day)
                    total += compare(stored, truth)
                    entry = entries.get(day)
                    if entry is None or entry.rows != truth.num_rows or not entry.complete:
                        total += Difference(0, 0, 0, 1)
        return total


def compare(stored: pa.Table, truth: pa.Table) -> Difference:
    """Row by row, value by value."""
    ids, true_ids = stored["trade_id"].to_numpy(), truth["trade_id"].to_numpy()
    known = np.unique(ids)
    lost = len(np.setdiff1d(true_ids, known))
    wrong = len(np.setdiff1d(known, true_ids))
    if len(ids) == len(true_ids) and not lost:
        for name in truth.schema.names:
            ours = stored[name].combine_chunks()
            theirs = truth[name].combine_chunks().cast(ours.type)
            same = pc.sum(pc.equal(ours, theirs)).as_py() or 0
            wrong += len(ids) - same
    return Difference(len(ids), lost, len(ids) - len(known), wrong)


def workflows(settings: Settings) -> list[Workflow]:
    """The workflows that an experiment has run."""

    async def read() -> list[Workflow]:
        async with open_store(settings) as store:
            return [Workflow.model_validate(document) for document in await store.documents(WORKFLOWS)]

    return asyncio.run(read())


def data_topics(settings: Settings) -> set[str]:
    """The data topics that the brokers hold."""

    async def ask() -> set[str]:
        async with open_bus(settings) as bus:
            return {name for name in await bus.topics() if name.endswith("-data")}

    return asyncio.run(ask())


@contextlib.contextmanager
def open_stage(folder: Path, size: Size, *, brokers: int = 3) -> Iterator[Stage]:
    """Start everything. In the main thread: the brokers end with the thread that started them."""
    weather = Weather()
    doors = free_ports(brokers)
    with (
        Kafka(folder / "kafka", brokers, advertised=doors) as kafka,
        start_blocking_portal() as portal,
        _exchange(folder, size, portal) as exchange,
        contextlib.ExitStack() as stack,
    ):
        proxies = [
            stack.enter_context(portal.wrap_async_context_manager(Proxy(door, node.ports["client"], weather)))
            for door, node in zip(doors, kafka.nodes, strict=True)
        ]
        stage = Stage(folder, size, kafka, exchange, proxies, weather, portal)
        stage.make_archive()
        stage.hold_back(None)
        yield stage


def _exchange(
    folder: Path, size: Size, portal: BlockingPortal
) -> contextlib.AbstractContextManager[SimulatedExchange]:
    config = SimulatorConfig(symbols=3, seed=11, trades_scale=size.scale, first_day=date(2024, 7, 1))
    return portal.wrap_async_context_manager(SimulatedExchange(config, folder / "exchange"))
