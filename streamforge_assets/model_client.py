"""The modelling half of the notebook face: train, and look at features, graphs, models, forecasts and reports."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pandas as pd
from anyio.from_thread import start_blocking_portal

from resources.artifacts import open_artifacts
from resources.datasets import DAY, days
from resources.errors import Rejected
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.graphs.agreement import EdgeAgreement, edge_agreement
from streamforge_assets.graphs.graph import edges_of
from streamforge_assets.market.panel import Panel
from streamforge_assets.model_plan import plan_models
from streamforge_assets.modelling.forecasts import DayForecasts, read_forecasts
from streamforge_assets.modelling.graphs import read_graph
from streamforge_assets.modelling.panels import read_days
from streamforge_assets.modelling.storage import Storage
from streamforge_assets.notebook import Graph, Model, Report
from streamforge_assets.planted import planted
from streamforge_assets.progress import TrainingBar
from streamforge_assets.request import parse_day
from streamforge_assets.scoreboard import ForecastScore, score_forecasts

if TYPE_CHECKING:
    import dagster as dg

T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Args:
        models: days that were to have a model.
        forecasts: days that were to have forecasts.
        failures: a sentence for each asset of which days could not be made, by asset.
        seconds: wall time of each asset.
    """

    models: tuple[date, ...]
    forecasts: tuple[date, ...]
    failures: dict[str, str]
    seconds: dict[str, float] = field(repr=False)

    @property
    def complete(self) -> bool:
        """Whether every day was made."""
        return not self.failures


class ModelClient:
    """What `StreamForge` does with models. The settings say where everything lies."""

    settings: Settings

    def make_models(self, *, start: str | date, end: str | date, folds: int = 7, progress: bool = True) -> Trained:
        """Make features of the days [start, end) from what is stored, and graphs, models, forecasts of the last.

        Forecasts are made for the last `folds` days, each by the model of the day before; the last day gets a
        model too, for the days to come. A model that was made of the same data is not trained again.

        Raises:
            Rejected: when the days are too few for one model.
        """
        from streamforge_assets.assets.session import Session
        from streamforge_assets.local_dagster import run_days

        plan = self._plan(parse_day(start), parse_day(end) - DAY, folds)
        truth = planted(self.settings)
        bar = TrainingBar(len(plan["gnn_model"]), shown=progress)
        session = Session(self.settings, planted=truth.edges if truth else None, on_training=bar.hear)
        failures: dict[str, str] = {}
        seconds: dict[str, float] = {}
        try:
            with self._dagster() as instance:
                for name, wanted in plan.items():
                    began = time.perf_counter()
                    failure = run_days(instance, session, name, wanted[0], wanted[-1]) if wanted else ""
                    seconds[name] = time.perf_counter() - began
                    if failure:
                        failures[name] = failure
        finally:
            bar.finish()
        return Trained(tuple(plan["gnn_model"]), tuple(plan["forecasts"]), failures, seconds)

    def graph(self, day: str | date) -> Graph:
        """Return the graph between assets of a day. Raises Rejected when it was not made."""
        wanted = parse_day(day)
        interval = self.settings.feature_interval
        return Graph(wanted, self._with_storage(lambda ports: read_graph(ports.artifacts, interval, wanted)))

    def model(self, day: str | date) -> Model:
        """Return the trained model of a day. Raises Rejected when there is none, or its files were changed."""
        from streamforge_assets.modelling.models import (
            CARD,
            metrics_of,
            read_model_files,
            require_torch,
            unpacked,
        )

        require_torch()
        wanted = parse_day(day)
        interval = self.settings.feature_interval
        files = self._with_storage(lambda ports: read_model_files(ports.artifacts, interval, wanted))
        from streamforge_assets.gnn.forecaster import load_model

        with unpacked(files) as folder:
            trained = load_model(folder)
        return Model(wanted, trained, metrics_of(files), files[CARD].decode())

    def panel(self, start: str | date, end: str | date, symbols: Sequence[str] | None = None) -> Panel:
        """Return the features of the days [start, end) as arrays, for a model's `predict`."""
        first, last = parse_day(start), parse_day(end) - DAY
        return self._with_storage(lambda ports: read_days(ports.artifacts, ports.dataset, first, last, symbols))

    def forecasts(self, start: str | date, end: str | date) -> pd.DataFrame:
        """Return the forecasts of the days [start, end), a row for each symbol and bar, indexed by the bar's time.

        Column `gnn` is the model's forecast log return; `realised` what then happened (where `usable`); the
        others are the baselines'.
        """
        return pd.concat([day.to_frame() for day in self._forecasts(parse_day(start), parse_day(end))])

    def report(self, start: str | date, end: str | date, *, progress: bool = True) -> Report:
        """Write the honest report of the forecasts of [start, end), and return it with its path."""
        from streamforge_assets.reporting.make import make_report

        first, after = parse_day(start), parse_day(end)
        if first >= after:
            raise Rejected(f"the range {first} to {after} is empty: its end is exclusive")
        with start_blocking_portal() as portal:
            return portal.call(partial(make_report, self.settings, first, after, progress=progress))

    def scores(self, start: str | date, end: str | date) -> list[ForecastScore]:
        """Return the out-of-sample scores of model and baselines over [start, end), the best first."""
        truth = planted(self.settings)
        forecasts = self._forecasts(parse_day(start), parse_day(end))
        return score_forecasts(forecasts, truth.forecast if truth else None)

    def edge_score(self, day: str | date) -> EdgeAgreement | None:
        """Return how the graph of a day agrees with the planted one; None where nothing was planted."""
        truth = planted(self.settings)
        if truth is None:
            return None
        graph = self.graph(day)
        there = truth.edges(graph.day, graph.graph.symbols) != 0
        return edge_agreement(edges_of(graph.graph.adjacency()), there)

    def _plan(self, first: date, last: date, folds: int) -> dict[str, list[date]]:
        """The days of each asset, in the order in which they are made."""
        # The first day of all has no features: nothing was before it that could warm the windows up.
        cold = not self._candles_of(first - DAY)
        return plan_models(first, last, folds, window=self.settings.model_window, cold=cold)

    def _candles_of(self, day: date) -> bool:
        """Whether candles of any symbol are stored for that day."""

        async def look(ports: Storage) -> bool:
            return bool(await ports.store.ledger(ports.dataset.name, start=day, end=day + DAY))

        return self._with_storage(look)

    def _forecasts(self, start: date, end: date) -> list[DayForecasts]:
        if start >= end:
            raise Rejected(f"the range {start} to {end} is empty: its end is exclusive")

        async def read(ports: Storage) -> list[DayForecasts]:
            interval = self.settings.feature_interval
            return [await read_forecasts(ports.artifacts, interval, day) for day in days(start, end)]

        return self._with_storage(read)

    def _dagster(self) -> AbstractContextManager[dg.DagsterInstance]:
        from streamforge_assets.local_dagster import open_instance

        return open_instance(self.settings)

    def _with_storage(self, work: Callable[[Storage], Awaitable[T]]) -> T:
        async def opened() -> T:
            async with open_store(self.settings) as store, open_artifacts(self.settings) as artifacts:
                return await work(Storage(self.settings, store, artifacts))

        with start_blocking_portal() as portal:
            return portal.call(opened)
