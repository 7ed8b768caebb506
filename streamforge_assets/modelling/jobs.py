"""A training job is a folder: what to train goes in, what was trained comes out. No port, no Dagster.

job.json           config, device, threads, day
panel.parquet      the window's features
graph/             the graph of the whole window
checkpoint/        state of a training that has not ended
result/            the files of the model; metrics.json is written last
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from resources.errors import Rejected
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.graphs.build import GraphConfig, build_graph
from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.market.panel import Floats, Panel
from streamforge_assets.modelling import forecasts, graphs
from streamforge_assets.modelling.card import model_card
from streamforge_assets.modelling.models import CARD, DATA, METRICS, curves, packed, require_torch
from streamforge_assets.modelling.panels import from_parquet, to_parquet
from streamforge_assets.modelling.trainer import Progress

BASELINES = "baselines"
TRAINING_SHARE = 0.6
"""Share of the progress that the network takes; the baselines take the rest."""


@dataclass(frozen=True)
class Job:
    """What to train."""

    day: date
    panel: Panel
    graph: AssetGraph
    gnn: GnnConfig
    builder: GraphConfig
    device: str
    threads: int
    manifest: Mapping[str, Any]


def write_job(folder: Path, job: Job) -> None:
    """Lay a job into `folder`; a checkpoint that is there stays."""
    (folder / "graph").mkdir(parents=True, exist_ok=True)
    for name, content in graphs.to_files(job.graph).items():
        (folder / "graph" / name).write_bytes(content)
    (folder / "panel.parquet").write_bytes(to_parquet(job.panel))
    values = {
        "day": job.day.isoformat(),
        "gnn": asdict(job.gnn),
        "builder": asdict(job.builder),
        "device": job.device,
        "threads": job.threads,
        "manifest": dict(job.manifest),
    }
    (folder / "job.json").write_text(json.dumps(values, indent=1))


def read_job(folder: Path) -> Job:
    """The job in `folder`.

    Raises:
        Rejected: when there is none, or it is damaged.
    """
    try:
        values = json.loads((folder / "job.json").read_text())
        return Job(
            day=date.fromisoformat(values["day"]),
            panel=from_parquet((folder / "panel.parquet").read_bytes()),
            graph=graphs.from_files(packed(folder / "graph")),
            gnn=GnnConfig(**values["gnn"]),
            builder=GraphConfig(**values["builder"]),
            device=values["device"],
            threads=values["threads"],
            manifest=values["manifest"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Rejected(f"{folder} holds no training job that can be read: {error}") from error


def run_job(folder: Path, on_progress: Progress) -> None:
    """Train the job in `folder` and leave the model's files in its `result`.

    Raises:
        Rejected: when the job cannot be read or trained.
    """
    require_torch()
    from streamforge_assets.gnn.forecaster import save_model
    from streamforge_assets.gnn.train import train_model

    job = read_job(folder)
    result = folder / "result"
    shutil.rmtree(result, ignore_errors=True)
    began = time.process_time()
    with threadpool_limits(job.threads):
        trained = train_model(
            job.panel,
            _graph_maker(job),
            job.gnn,
            checkpoint=folder / "checkpoint",
            progress=lambda step: on_progress(TRAINING_SHARE * step.step / step.steps),
            device=job.device,
            threads=job.threads,
        )
        seconds = time.process_time() - began
        on_progress(TRAINING_SHARE)
        save_model(trained, result)
        values = {forecasts.MODEL: trained.predict(job.panel)}
        notes = _fit_baselines(job, result / BASELINES, values, on_progress)
    # The bars that were learned from: how well the model fits, not how well it forecasts.
    fitted = forecasts.cut_forecasts(job.day, job.day, job.panel, values, 1)
    (result / "predictions.parquet").write_bytes(forecasts.to_parquet(fitted))
    metrics = {
        "cpu_seconds": seconds,
        "edges": trained.graph.edges,
        "gated": trained.gated,
        "note": trained.note,
        "left_out_baselines": "; ".join(notes),
        **trained.facts,
    }
    _draw(result, job.graph)
    (result / DATA).write_text(json.dumps(dict(job.manifest), indent=1))
    (result / CARD).write_text(model_card(job.day, trained, metrics, job.manifest))
    (result / METRICS).write_text(json.dumps(metrics, indent=1, default=float))
    on_progress(1.0)


def _graph_maker(job: Job) -> Callable[[Panel], AssetGraph]:
    """The stored graph for the whole window; one of the training part alone for what validation decides."""

    def make(rows: Panel) -> AssetGraph:
        return job.graph if rows.bars == job.panel.bars else build_graph(rows, job.builder)

    return make


def _draw(result: Path, graph: AssetGraph) -> None:
    from streamforge_assets.gnn.report.small import adjacency_png, loss_png

    plots = result / "plots"
    plots.mkdir()
    history = curves(packed(result))
    if history["loss"]:  # a model without edges has nothing to train by gradient
        (plots / "loss.png").write_bytes(loss_png(history))
    (plots / "adjacency.png").write_bytes(adjacency_png(graph))


def _fit_baselines(job: Job, folder: Path, values: dict[str, Floats], on_progress: Progress) -> list[str]:
    from streamforge_assets.gnn.baselines import make_baselines

    made, notes = make_baselines(threads=job.threads)
    for count, baseline in enumerate(made, start=1):
        baseline.fit(job.panel, job.graph)
        baseline.save(folder)
        values[baseline.name] = baseline.predict(job.panel)
        on_progress(TRAINING_SHARE + (1 - TRAINING_SHARE) * count / len(made))
    return notes
