"""Models trained again with one thing changed: the ablations and the seeds of a report."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from resources.artifacts import open_artifacts
from resources.datasets import DAY
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.evaluation import evaluate
from streamforge_assets.gnn.report.data import Ablation, SeedScore
from streamforge_assets.graphs.build import build_graph
from streamforge_assets.market.panel import Floats, Panel
from streamforge_assets.modelling.forecasts import MODEL, DayForecasts, day_forecasts, joined, read_forecasts
from streamforge_assets.modelling.graphs import graph_config
from streamforge_assets.modelling.panels import read_days
from streamforge_assets.modelling.storage import Storage
from streamforge_assets.modelling.training import prepare

SEEDS = 4
"""Further seeds beside the one of the settings."""

ABLATIONS = {
    "edges reversed": "reversed",
    "edges shuffled": "shuffled",
    "graph taken as given": "graph_as_given",
    "no gate": "no_gate",
    "no graph": "no_graph",
}
"""Label in the report to name in `study.forecasting.graph_ablations`."""


@dataclass(frozen=True)
class Retrained:
    """Forecasts of one day by models that were trained again: by label of the ablation, and by seed."""

    ablations: DayForecasts
    seeds: DayForecasts


def retrain_day(settings: Settings, day: date) -> Retrained:
    """Train the model of the day before `day` again in every way, and forecast `day`. Runs in any process."""
    return asyncio.run(_retrain_day(settings, day))


def ablation_rows(days: Sequence[Retrained]) -> tuple[Ablation, ...]:
    """Each ablation over all days: its mean IC, and how much better the full model is, with its interval."""
    pooled = joined([item.ablations for item in days])
    found = evaluate(pooled.values, pooled.realised, pooled.sigma, pooled.usable, MODEL)
    rows = []
    for label in ABLATIONS:
        gain = found[label].reference_gain
        if gain is not None:
            rows.append(Ablation(label, found[label].ic.value, gain.value, gain.low, gain.high))
    return tuple(rows)


def seed_rows(days: Sequence[Retrained]) -> tuple[SeedScore, ...]:
    """Mean IC and R² over all days, by seed."""
    pooled = joined([item.seeds for item in days])
    found = evaluate(pooled.values, pooled.realised, pooled.sigma, pooled.usable, next(iter(pooled.values)))
    return tuple(SeedScore(int(scores.name), scores.ic.value, scores.r2.value) for scores in found.scores)


async def _retrain_day(settings: Settings, day: date) -> Retrained:
    async with open_store(settings) as store, open_artifacts(settings) as artifacts:
        storage = Storage(settings, store, artifacts)
        inputs = await prepare(storage, day - DAY)
        stored = await read_forecasts(artifacts, settings.feature_interval, day)
        ahead = await read_days(artifacts, storage.dataset, day - DAY, day, inputs.job.panel.symbols)
    panel, config = inputs.job.panel, inputs.job.gnn
    said = {MODEL: stored.values[MODEL], **_ablated(settings, panel, ahead, config, day)}
    seeds = {str(config.seed): stored.values[MODEL]}
    for seed in range(config.seed + 1, config.seed + 1 + SEEDS):
        seeds[str(seed)] = _train(settings, panel, ahead, replace(config, seed=seed), day)
    return Retrained(replace(stored, values=said), replace(stored, values=seeds))


def _ablated(settings: Settings, panel: Panel, ahead: Panel, config: GnnConfig, day: date) -> dict[str, Floats]:
    from streamforge_assets.gnn.registry import ablated
    from streamforge_assets.gnn.train import train_model
    from streamforge_assets.study.forecasting import graph_ablations

    ways = graph_ablations(config)
    found = {}
    for label, name in ABLATIONS.items():
        changed, ablation = ways[name]
        graph = ablated(build_graph(panel, graph_config(settings)), ablation)
        model = train_model(panel, graph, changed, device=settings.device, threads=settings.threads)
        found[label] = _of_the_day(model.predict(ahead), ahead, day)
    return found


def _train(settings: Settings, panel: Panel, ahead: Panel, config: GnnConfig, day: date) -> Floats:
    from streamforge_assets.gnn.train import train_model

    model = train_model(
        panel,
        lambda rows: build_graph(rows, graph_config(settings)),
        config,
        device=settings.device,
        threads=settings.threads,
    )
    return _of_the_day(model.predict(ahead), ahead, day)


def _of_the_day(values: Floats, ahead: Panel, day: date) -> Floats:
    return day_forecasts(day, day - DAY, ahead, {MODEL: values}).values[MODEL]
