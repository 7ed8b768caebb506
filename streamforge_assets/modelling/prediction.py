"""Forecasts of a day: the model and the baselines of the day before, asked bar by bar."""

from __future__ import annotations

from datetime import date

from resources.datasets import DAY
from streamforge_assets.modelling.forecasts import MODEL, DayForecasts, day_forecasts
from streamforge_assets.modelling.jobs import BASELINES
from streamforge_assets.modelling.models import read_model_files, require_torch, unpacked
from streamforge_assets.modelling.panels import read_days
from streamforge_assets.modelling.storage import Storage


async def forecast_day(storage: Storage, day: date) -> DayForecasts:
    """Ask the model of the day before for every bar of `day`. Each forecast sees what ended before its bar begins.

    A symbol of the model that has no features on the day is masked; one that the model does not know is not asked.

    Raises:
        Rejected: when that model is absent or changed, or no day has features.
    """
    require_torch()
    model_day = day - DAY
    files = await read_model_files(storage.artifacts, storage.settings.feature_interval, model_day)
    with unpacked(files) as folder:
        from streamforge_assets.gnn.baselines import load_baseline
        from streamforge_assets.gnn.forecaster import load_model

        model = load_model(folder)
        baselines = [load_baseline(path) for path in sorted((folder / BASELINES).glob("*.json"))]
    panel = await read_days(storage.artifacts, storage.dataset, model_day, day, model.symbols)
    values = {MODEL: model.predict(panel, device=storage.settings.device)}
    values |= {baseline.name: baseline.predict(panel) for baseline in baselines}
    return day_forecasts(day, model_day, panel, values)
