"""Make a report: gather the folds, run what is missing on every core, render, keep as an artifact."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, fields
from datetime import UTC, date, datetime
from importlib.metadata import version
from typing import Any

from tqdm.auto import tqdm

from resources.artifacts import open_artifacts
from resources.artifacts.sealed import is_published, publish_sealed, read_sealed
from resources.datasets import days
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.report.assess import assess
from streamforge_assets.gnn.report.data import Check, Fold, ReportData, RunCard
from streamforge_assets.gnn.report.render import render_report
from streamforge_assets.modelling.storage import Storage
from streamforge_assets.notebook import Report
from streamforge_assets.planted import planted
from streamforge_assets.reporting.folds import data_card, read_fold
from streamforge_assets.reporting.retraining import Retrained, ablation_rows, retrain_day, seed_rows
from streamforge_assets.study.method import EXPERIMENTS, MethodStudy, run_experiment, study_digest

RETRAINED_FOLDS = 3
"""The last folds, on which ablations and further seeds are trained: each costs a training for each of them."""

PAGE = "report.html"


async def make_report(settings: Settings, start: date, end: date, *, progress: bool) -> Report:
    """Report on the forecasts of the days [start, end).

    Raises:
        Rejected: when a day has no forecasts, or an artifact was changed.
    """
    began = time.perf_counter()
    async with open_store(settings) as store, open_artifacts(settings) as artifacts:
        storage = Storage(settings, store, artifacts)
        truth = planted(settings)
        read = [await read_fold(storage, day, truth) for day in days(start, end)]
        folds = tuple(fold for fold, _ in read)
        card = await data_card(storage, days(start, end)[-1], [manifest for _, manifest in read])
        study, retrained = await _measure(storage, days(start, end)[-RETRAINED_FOLDS:], progress=progress)
        data = ReportData(
            title=f"StreamForge: forecasts of {start} to {days(start, end)[-1]}",
            folds=folds,
            card=card,
            run=_run_card(settings, folds, time.perf_counter() - began),
            seed_scores=seed_rows(retrained),
            ablations=ablation_rows(retrained),
            checks=_checks(read),
            **{field.name: getattr(study, field.name) for field in fields(study)},
        )
        found = assess(data)
        page = await asyncio.to_thread(render_report, data, found)
        prefix = f"reports/{settings.feature_interval}/{start}_{end}"
        await artifacts.publish(prefix, {PAGE: page.encode()})
    path = (settings.home / "artifacts" / prefix / PAGE).absolute()
    return Report(path, f"{found.verdict.headline} {found.verdict.context}".strip(), page)


async def _measure(
    storage: Storage, retrained: Sequence[date], *, progress: bool
) -> tuple[MethodStudy, list[Retrained]]:
    """The method study, from its last run if nothing changed since, and the models trained again."""
    prefix = f"reports/study/{study_digest()[:16]}"
    stored = await is_published(storage.artifacts, prefix)
    experiments = [] if stored else list(EXPERIMENTS)
    work: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (retrain_day, (storage.settings, day)) for day in retrained
    ]
    work += [(run_experiment, (name,)) for name in experiments]
    results = await asyncio.to_thread(_on_every_core, work, progress=progress)
    days_, rows = results[: len(retrained)], results[len(retrained) :]
    if stored:
        content = await read_sealed(storage.artifacts, prefix)
        return MethodStudy.from_json(json.loads(content["study.json"])), days_
    study = MethodStudy(**{name: tuple(row) for name, row in zip(experiments, rows, strict=True)})
    await publish_sealed(storage.artifacts, prefix, {"study.json": json.dumps(study.to_json()).encode()})
    return study, days_


def _on_every_core(work: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], *, progress: bool) -> list[Any]:
    """Call each function with its arguments, in processes; results in the order given."""
    workers = min(len(work), len(os.sched_getaffinity(0))) or 1
    bar = tqdm(total=len(work), unit="experiment", disable=not progress, dynamic_ncols=True, delay=0.2)
    with bar, ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures: list[Future[Any]] = [pool.submit(function, *arguments) for function, arguments in work]
        for future in futures:
            future.add_done_callback(lambda _done: bar.update())
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run_card(settings: Settings, folds: Sequence[Fold], seconds: float) -> RunCard:
    libraries = ("streamforge", "torch", "numpy", "scipy", "dagster")
    return RunCard(
        configurations=1,
        commit=f"sources {study_digest()[:12]}",
        seeds=(settings.model_seed,),
        cpu_seconds=sum(fold.seconds or 0.0 for fold in folds),
        hardware=f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {settings.device}, "
        f"{settings.threads} thread; the report itself took {seconds:.0f} s",
        versions={name: version(name) for name in libraries} | {"python": platform.python_version()},
        configuration=asdict(GnnConfig(seed=settings.model_seed))
        | {"window_days": settings.model_window, "lags": settings.model_lags},
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _checks(read: Sequence[tuple[Fold, dict[str, Any]]]) -> tuple[Check, ...]:
    """What the asset checks say of the folds' data, once more, so that a reader sees it here."""
    left_out = sorted({symbol for _, manifest in read for symbol in manifest["left_out"]})
    empty = [fold.label for fold, _ in read if fold.graph is not None and not fold.graph.edges]
    return (
        Check(
            "every symbol covers the windows",
            not left_out,
            f"left out in some window: {', '.join(left_out)}" if left_out else "no symbol was left out",
        ),
        Check(
            "every graph has edges",
            not empty,
            f"the graph is empty on {', '.join(empty)}" if empty else "no graph is empty",
        ),
    )
