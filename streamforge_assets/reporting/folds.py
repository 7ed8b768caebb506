"""Stored forecasts, models and graphs as the folds of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np

from resources.datasets import midnight, to_us
from streamforge_assets.gnn.report.data import DataCard, Fold, LeftOut, Span
from streamforge_assets.modelling.forecasts import DayForecasts, read_forecasts
from streamforge_assets.modelling.graphs import read_graph
from streamforge_assets.modelling.models import DATA, curves, metrics_of, read_model_files
from streamforge_assets.modelling.panels import read_days
from streamforge_assets.modelling.storage import Storage
from streamforge_assets.planted import Planted


async def read_fold(storage: Storage, day: date, truth: Planted | None) -> tuple[Fold, dict[str, Any]]:
    """The fold of one day's forecasts, and the data manifest of its model.

    Raises:
        Rejected: when forecasts, model or graph are absent or were changed.
    """
    interval = storage.settings.feature_interval
    forecasts = await read_forecasts(storage.artifacts, interval, day)
    files = await read_model_files(storage.artifacts, interval, forecasts.model_day)
    graph = await read_graph(storage.artifacts, interval, forecasts.model_day)
    metrics, manifest = metrics_of(files), json.loads(files[DATA])
    step = int(forecasts.times[1] - forecasts.times[0])
    symbols = forecasts.symbols
    fold = Fold(
        label=f"{day:%d %b}",
        symbols=symbols,
        times=forecasts.times - step,
        forecasts=forecasts.values,
        realised=forecasts.realised,
        sigma=forecasts.sigma,
        mask=forecasts.usable,
        oracle=truth.forecast(day, symbols) if truth else None,
        graph=graph,
        planted=truth.edges(forecasts.model_day, symbols) if truth else None,
        history=curves(files),
        spans=_spans(forecasts, metrics, manifest, step),
        seconds=metrics["cpu_seconds"],
    )
    return fold, manifest


def _spans(
    forecasts: DayForecasts, metrics: dict[str, Any], manifest: dict[str, Any], step: int
) -> tuple[Span, ...]:
    """How the fold's time was used: training, purge, validation, and the test day."""
    start = to_us(midnight(date.fromisoformat(manifest["first_day"])))
    train, validation = metrics["train_rows"], metrics["validation_rows"]
    edges = [start + row * step for row in (train[0], train[1], validation[0], validation[1])]
    test = Span("test", int(forecasts.times[0]), int(forecasts.times[-1]) + step)
    return (
        Span("train", edges[0], edges[1]),
        Span("purge", edges[1], edges[2]),
        Span("validation", edges[2], edges[3]),
        test,
    )


async def data_card(storage: Storage, last: date, manifests: Sequence[dict[str, Any]]) -> DataCard:
    """What the models were made from, and the bars up to `last` that they forecast."""
    begin = date.fromisoformat(manifests[0]["first_day"])
    panel = await read_days(storage.artifacts, storage.dataset, begin, last)
    left_out = {symbol: share for item in manifests for symbol, share in item["left_out"].items()}
    absent = sorted({day for item in manifests for day in item["absent_days"]})
    quiet = 1 - panel.coverage
    return DataCard(
        source="simulated exchange" if storage.settings.exchange == "simulated" else "Binance spot",
        interval=storage.settings.feature_interval,
        gaps=(*(f"{day}: no features" for day in absent), *_gaps(panel.mask, panel.times)),
        no_trade_share=dict(zip(panel.symbols, quiet.tolist(), strict=True)),
        hashes={
            f"features to {item['last_day']}": item["features_sha256"] for item in (manifests[0], manifests[-1])
        },
        left_out=tuple(
            LeftOut(symbol, f"usable in only {share:.0%} of its bars") for symbol, share in left_out.items()
        ),
    )


def _gaps(mask: np.ndarray[Any, np.dtype[np.bool_]], times: np.ndarray[Any, np.dtype[np.int64]]) -> list[str]:
    """Stretches of an hour and more in which no symbol has a usable bar, the longest first."""
    quiet = np.concatenate([[False], ~mask.any(axis=1), [False]])
    starts, ends = np.flatnonzero(~quiet[:-1] & quiet[1:]), np.flatnonzero(quiet[:-1] & ~quiet[1:])
    step = int(times[1] - times[0])
    found = sorted(zip(starts, ends, strict=True), key=lambda run: run[0] - run[1])
    hour = 3_600_000_000
    return [
        f"{np.datetime64(int(times[start]), 'us').astype('datetime64[m]')}: {(end - start) * step / hour:.1f} h"
        for start, end in found[:10]
        if (end - start) * step >= hour
    ]
