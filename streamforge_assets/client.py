"""The notebook face: everything a user does, as methods of StreamForge."""

from __future__ import annotations

import contextlib
import getpass
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from anyio.from_thread import start_blocking_portal

from resources.datasets import DAY, TRADES, Dataset, Partition, candles, days, midnight, parse_dataset
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.ledger import LedgerEntry
from resources.settings import Settings, load_settings
from resources.store import open_store
from resources.store.frames import to_frame
from resources.store.port import Store
from streamforge_assets.export import export_rows
from streamforge_assets.model_client import ModelClient, Trained
from streamforge_assets.progress import PartitionBar, watch
from streamforge_assets.request import Request, check_symbols, check_with_exchange, parse_day, parse_request
from streamforge_assets.status import Status, read_status
from streamforge_assets.workflow.platform import reachable_exchange

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """How a backfill ended. `failures` are the partitions that are not complete, each with its sentence."""

    partitions: int
    entries: tuple[LedgerEntry, ...] = field(repr=False)
    failures: dict[Partition, str]
    seconds: float

    @property
    def rows(self) -> int:
        """Rows of the partitions asked for, as stored now."""
        return sum(entry.rows for entry in self.entries)

    @property
    def complete(self) -> bool:
        """Whether every partition asked for is complete."""
        return not self.failures


class StreamForge(ModelClient):
    """A connection to one StreamForge: its home folder, or a running Dagster for the work.

    Every method may be called from a notebook, where an event loop runs already.
    """

    def __init__(self, settings: Settings, dagster_url: str | None = None) -> None:
        self.settings = settings
        self.dagster_url = dagster_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def symbols(self) -> list[str]:
        """Return the symbols that are collected."""
        from streamforge_assets import local_dagster

        with self._dagster() as instance:
            return local_dagster.list_symbols(instance)

    def add_symbols(self, *symbols: str) -> None:
        """Add symbols to those that are collected. Raises Rejected for one the exchange does not trade."""
        from streamforge_assets import local_dagster
        from streamforge_assets.request import check_symbol_text

        for symbol in symbols:
            check_symbol_text(symbol)

        async def check() -> None:
            async with reachable_exchange(self.settings) as exchange:
                with contextlib.suppress(Unavailable):  # said by the exchange's client; the archive may serve
                    await check_symbols(symbols, exchange)

        self._run(check)
        with self._dagster() as instance:
            local_dagster.add_symbols(instance, symbols)

    def remove_symbol(self, symbol: str) -> None:
        """Stop collecting a symbol. What is stored of it stays. Raises Rejected if it was not collected."""
        from streamforge_assets import local_dagster

        with self._dagster() as instance:
            known = local_dagster.list_symbols(instance)
            if symbol not in known:
                raise Rejected(f"{symbol} is not collected; there are {', '.join(known) or 'no symbols'}")
            local_dagster.remove_symbol(instance, symbol)

    def exchange_symbols(self) -> list[str]:
        """Return the symbols that the exchange trades, sorted. Raises Unavailable when it cannot be asked."""

        async def ask() -> list[str]:
            async with reachable_exchange(self.settings) as exchange:
                return await exchange.symbols()

        return self._run(ask)

    def backfill(
        self,
        datasets: Sequence[str],
        symbols: Sequence[str] | None = None,
        *,
        start: str | date,
        end: str | date,
        refresh: bool = False,
        accept_gaps: bool | str = False,
        progress: bool = True,
    ) -> Result:
        """Collect datasets of symbols over the days [start, end), through Dagster, with a progress bar.

        What is stored complete is not fetched again, so an interrupted call is simply repeated.

        Args:
            datasets: `trades`, `candles_5m` and other intervals.
            symbols: None means every symbol that was added.
            start: first day, UTC.
            end: the day after the last, UTC.
            refresh: compare stored days with the exchange's archive and load anew what it re-published.
            accept_gaps: record holes that cannot be filled as accepted, by this name (True: the user's).
            progress: whether to show the bar.

        Raises:
            Rejected: for a request that cannot be met; nothing was started.
            Unavailable: when a part that is needed does not work.
        """
        request = parse_request(datasets, self._chosen(symbols), start, end, self.settings)
        by = "" if accept_gaps is False else getpass.getuser() if accept_gaps is True else accept_gaps
        began = time.perf_counter()
        bar = PartitionBar(request.partitions, shown=progress)
        finished = False
        try:
            if self.dagster_url:
                failures = self._remote(request, bar, refresh=refresh, accepted_by=by)
            else:
                failures = self._local(request, bar, refresh=refresh, accepted_by=by)
            finished = True
        finally:
            bar.finish(complete=finished)
        entries = self._entries(request)
        have = {entry.partition: entry for entry in entries}
        for partition in request.partitions:
            if partition not in have:
                failures.setdefault(partition, "it was not collected")
        return Result(len(request.partitions), tuple(entries), failures, time.perf_counter() - began)

    def train(
        self,
        symbols: Sequence[str] | None = None,
        *,
        start: str | date,
        end: str | date,
        folds: int = 7,
        progress: bool = True,
    ) -> tuple[Result, Trained]:
        """Collect trades and candles of [start, end) that are missing, then do what `make_models` does.

        A symbol with holes does not stop the others: it is left out where it covers too little.

        Raises:
            Rejected: for a request that cannot be met, or too few days for one model; nothing was started.
            Unavailable: when a part that is needed does not work.
        """
        self._plan(parse_day(start), parse_day(end) - DAY, folds)
        datasets = [TRADES.name, candles(self.settings.feature_interval).name]
        collected = self.backfill(datasets, symbols, start=start, end=end, progress=progress)
        return collected, self.make_models(start=start, end=end, folds=folds, progress=progress)

    def candles(
        self, symbols: str | Sequence[str], interval: str, start: str | date, end: str | date
    ) -> pd.DataFrame:
        """Return the stored candles that open in [start, end) as a DataFrame with a UTC DatetimeIndex.

        Columns and dtypes are in docs/records.md. Several symbols follow one another, told by `symbol`.
        """
        return self._frame(candles(interval), symbols, start, end)

    def trades(self, symbols: str | Sequence[str], start: str | date, end: str | date) -> pd.DataFrame:
        """Return the stored aggregate trades of [start, end) as a DataFrame with a UTC DatetimeIndex."""
        return self._frame(TRADES, symbols, start, end)

    def status(self) -> Status:
        """Return what is stored, with the state of every day."""
        return self._with_store(read_status)

    def ledger(self, dataset: str, symbol: str, start: str | date, end: str | date) -> list[LedgerEntry]:
        """Return the completeness ledger of the days [start, end): rows, holes, explanations, source."""
        parse_dataset(dataset)
        first, after = parse_day(start), parse_day(end)
        return self._with_store(lambda store: store.ledger(dataset, symbol, first, after))

    def export(self, dataset: str, symbols: Sequence[str], start: str | date, end: str | date, path: Path) -> int:
        """Write the stored rows of [start, end) to a `.parquet` or `.csv` file; returns how many.

        Memory stays bounded by one day of one symbol. The file appears only once it is whole.
        """
        kind = parse_dataset(dataset)
        first, after = parse_day(start), parse_day(end)
        return self._with_store(lambda store: export_rows(store, kind, symbols, days(first, after), path))

    def _frame(
        self, dataset: Dataset, symbols: str | Sequence[str], start: str | date, end: str | date
    ) -> pd.DataFrame:
        names = [symbols] if isinstance(symbols, str) else list(symbols)
        first, after = _moment(start), _moment(end)
        table = self._with_store(lambda store: store.read(dataset.name, names, first, after))
        return to_frame(table, dataset.record)

    def _chosen(self, symbols: Sequence[str] | None) -> Sequence[str]:
        if isinstance(symbols, str):
            return [symbols]
        return self.symbols() if symbols is None else symbols

    def _local(
        self, request: Request, bar: PartitionBar, *, refresh: bool, accepted_by: str
    ) -> dict[Partition, str]:
        from streamforge_assets.assets.session import Session
        from streamforge_assets.local_dagster import run_backfill

        session = Session(self.settings)
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(_prepared(self.settings, request)),
            portal.wrap_async_context_manager(watch(self.settings, bar.hear)),
            self._dagster() as instance,
            session.kept_open(),
        ):
            run_backfill(instance, session, request, refresh=refresh, accepted_by=accepted_by)
        return {item.partition: item.failure for item in session.collected if item.failure}

    def _remote(
        self, request: Request, bar: PartitionBar, *, refresh: bool, accepted_by: str
    ) -> dict[Partition, str]:
        from streamforge_assets.remote_dagster import POLL, RemoteDagster

        remote = RemoteDagster(self.dagster_url or "")
        with start_blocking_portal() as portal:
            backfill = portal.call(lambda: remote.launch(request, refresh=refresh, accepted_by=accepted_by))
            try:
                while not (state := portal.call(remote.progress, backfill)).ended:
                    bar.show(state.materialized + state.failed)
                    time.sleep(POLL)
            except KeyboardInterrupt:
                portal.call(remote.cancel, backfill)
                raise
        if state.error:
            raise StreamForgeError(f"Dagster's backfill {backfill} failed: {state.error.splitlines()[0]}")
        entries = {entry.partition: entry for entry in self._entries(request)}
        return {
            partition: f"see backfill {backfill} at {self.dagster_url}"
            for partition in request.partitions
            if partition not in entries or not entries[partition].complete
        }

    def _entries(self, request: Request) -> list[LedgerEntry]:
        async def read(store: Store) -> list[LedgerEntry]:
            return [
                entry
                for symbol in request.symbols
                for dataset in request.datasets
                for entry in await store.ledger(dataset.name, symbol, request.start, request.end)
            ]

        return self._with_store(read)

    def _with_store(self, work: Callable[[Store], Awaitable[T]]) -> T:
        async def opened() -> T:
            async with open_store(self.settings) as store:
                return await work(store)

        return self._run(opened)

    @staticmethod
    def _run(work: Callable[[], Awaitable[T]]) -> T:
        with start_blocking_portal() as portal:
            return portal.call(work)


def connect(dagster_url: str | None = None, **settings: object) -> StreamForge:
    """Connect to StreamForge.

    Args:
        dagster_url: a running Dagster that shall do the work, such as http://127.0.0.1:3000; None works in
            this process.
        settings: settings that override the environment, such as home="/data/streamforge".

    Raises:
        Rejected: for a setting that is wrong.
    """
    return StreamForge(load_settings(**settings), dagster_url)


@contextlib.asynccontextmanager
async def _prepared(settings: Settings, request: Request) -> AsyncIterator[None]:
    """Check the request with the exchange; keep a simulated one running meanwhile."""
    async with reachable_exchange(settings) as exchange:
        await check_with_exchange(request, exchange)
        yield


def _moment(text: str | date) -> datetime:
    if isinstance(text, datetime):
        return text if text.tzinfo else text.replace(tzinfo=UTC)
    return midnight(parse_day(text))
