"""The asset `models/forecasts`: what the model of the day before says of every bar, beside its baselines."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import dagster as dg
import numpy as np

from resources.datasets import DAY, days
from resources.settings import Settings
from streamforge_assets.assets.daily import BACKFILL, Made, check_specs, make_days, the_day_before, trailing
from streamforge_assets.assets.features import FEATURES_KEY
from streamforge_assets.assets.gnn_model import MODEL_KEY
from streamforge_assets.assets.session import Session
from streamforge_assets.gnn.evaluation import Evaluation, evaluate, ic_per_bar
from streamforge_assets.gnn.report.small import small_ic
from streamforge_assets.modelling.forecasts import (
    MODEL,
    DayForecasts,
    joined,
    publish_forecasts,
    read_forecasts,
    stored_forecasts,
)
from streamforge_assets.modelling.prediction import forecast_day
from streamforge_assets.modelling.storage import Storage
from streamforge_assets.partitions import dates

FORECASTS_KEY = dg.AssetKey(["models", "forecasts"])
JUDGED_DAYS = 7
CHECKS = {
    "has_skill": f"the interval of the model's IC over up to {JUDGED_DAYS} days lies above 0",
    "beats_baselines": f"over up to {JUDGED_DAYS} days no baseline has a higher IC than the model",
}


def forecasts_asset(settings: Settings) -> dg.AssetsDefinition:
    """Out-of-sample forecasts, by day."""

    @dg.asset(
        key=FORECASTS_KEY,
        group_name="models",
        partitions_def=dates(settings),
        deps=[
            dg.AssetDep(MODEL_KEY, partition_mapping=the_day_before()),
            dg.AssetDep(FEATURES_KEY, partition_mapping=trailing(2)),
        ],
        backfill_policy=BACKFILL,
        output_required=False,
        check_specs=check_specs(FORECASTS_KEY, CHECKS),
        kinds={"pytorch", "parquet"},
        description="Forecast log return of every bar and symbol, made at the end of the bar before.",
    )
    def forecasts(
        context: dg.AssetExecutionContext, session: dg.ResourceParam[Session]
    ) -> Iterator[dg.AssetCheckResult]:
        with session.storage() as opened:

            def make(day: date) -> Made:
                async def work(storage: Storage) -> list[DayForecasts]:
                    made = await forecast_day(storage, day)
                    await publish_forecasts(storage.artifacts, settings.feature_interval, made)
                    return [*await _earlier(storage, day), made]

                return _made(opened.run(work))

            yield from make_days(context, CHECKS, make)

    return forecasts


async def _earlier(storage: Storage, day: date) -> list[DayForecasts]:
    """The stored forecasts of the days before, of the same symbols, without a hole, at most `JUDGED_DAYS` - 1."""
    interval = storage.settings.feature_interval
    found: list[DayForecasts] = []
    for before in reversed(days(day - (JUDGED_DAYS - 1) * DAY, day)):
        if not await stored_forecasts(storage.artifacts, interval, before):
            break
        found.insert(0, await read_forecasts(storage.artifacts, interval, before))
    return found


def _made(judged: Sequence[DayForecasts]) -> Made:
    """Metadata of the last of `judged`; the checks look at all of them that are of the same symbols."""
    last = judged[-1]
    same = [day for day in judged if day.symbols == last.symbols and set(day.values) >= set(last.values)]
    pooled = joined(same)
    evaluation = evaluate(pooled.values, pooled.realised, pooled.sigma, pooled.usable, MODEL)
    ics = [ic_per_bar(day.values[MODEL], day.realised, day.usable) for day in same]
    errors = [float(np.nanstd(ic) / np.sqrt(max(1, np.isfinite(ic).sum()))) for ic in ics]
    labels = [f"{day.day:%d %b}" for day in same]
    metadata: dict[str, Any] = {
        "dagster/row_count": last.usable.size,
        "model_day": str(last.model_day),
        "symbols": len(last.symbols),
        "ic_of_the_day": float(np.nanmean(ics[-1])) if np.isfinite(ics[-1]).any() else 0.0,
        "judged_days": len(same),
        "picture": dg.MetadataValue.md(small_ic(labels, [_mean(ic) for ic in ics], errors)),
        "scores": dg.MetadataValue.table([_record(evaluation, name) for name in last.values]),
    }
    return Made(metadata, _findings(evaluation, len(same)))


def _record(evaluation: Evaluation, name: str) -> dg.TableRecord:
    scores = evaluation[name]
    return dg.TableRecord(
        {
            "forecaster": name,
            "IC": round(scores.ic.value, 5),
            "IC from": round(scores.ic.low, 5),
            "IC to": round(scores.ic.high, 5),
            "R2": round(scores.r2.value, 6),
        }
    )


def _findings(evaluation: Evaluation, count: int) -> dict[str, str]:
    findings: dict[str, str] = {}
    mine = evaluation[MODEL]
    if mine.ic.low <= 0:
        findings["has_skill"] = (
            f"IC over {count} days is {mine.ic.value:+.4f}, its interval {mine.ic.low:+.4f} to {mine.ic.high:+.4f}"
            " contains 0: this is no evidence of skill"
        )
    best = evaluation.best_baseline
    if best is not None and evaluation[best].ic.value >= mine.ic.value:
        findings["beats_baselines"] = (
            f"the baseline {best} has IC {evaluation[best].ic.value:+.4f}, the model {mine.ic.value:+.4f},"
            f" over {count} days: the model is no better"
        )
    return findings


def _mean(ic: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.nanmean(ic)) if np.isfinite(ic).any() else 0.0
