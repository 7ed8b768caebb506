"""How good stored forecasts are, in a few numbers, beside the oracle where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from streamforge_assets.gnn.evaluation import ic_per_bar
from streamforge_assets.gnn.scores import squares
from streamforge_assets.market.panel import Floats
from streamforge_assets.modelling.forecasts import DayForecasts

ORACLE = "oracle"

TrueForecast = Callable[[date, Sequence[str]], Floats]
"""The exact expectation of each bar's log return of a day, shape (T, N)."""


@dataclass(frozen=True, slots=True)
class ForecastScore:
    """One forecaster over all days: mean IC per bar and R² against zero of returns over sigma, pooled.

    The shares are of the oracle's; None where there is none.
    """

    name: str
    ic: float
    r2: float
    ic_share: float | None = None
    r2_share: float | None = None


def score_forecasts(days: Sequence[DayForecasts], truth: TrueForecast | None) -> list[ForecastScore]:
    """Score every forecaster that spoke on all of `days`: the oracle first where `truth` knows it, then by IC."""
    names = [name for name in days[0].values if all(name in day.values for day in days)]
    said = {name: [day.values[name] for day in days] for name in names}
    if truth is not None:
        said[ORACLE] = [truth(day.day, day.symbols) for day in days]
    measured = {name: _measure(days, values) for name, values in said.items()}
    best = measured.get(ORACLE)
    scores = [
        ForecastScore(
            name, ic, r2, ic / best[0] if best and best[0] else None, r2 / best[1] if best and best[1] else None
        )
        for name, (ic, r2) in measured.items()
    ]
    return sorted(scores, key=lambda score: (score.name != ORACLE, -score.ic))


def _measure(days: Sequence[DayForecasts], values: Sequence[Floats]) -> tuple[float, float]:
    """Mean IC of the bars where it is defined, and R²."""
    pairs = list(zip(days, values, strict=True))
    ic = np.concatenate([ic_per_bar(value, day.realised, day.usable) for day, value in pairs])
    errors = [squares(value, day.realised, day.sigma, day.usable) for day, value in pairs]
    wrong, all_ = (float(sum(part[at].sum() for part in errors)) for at in (0, 1))
    return float(np.nanmean(ic)) if np.isfinite(ic).any() else 0.0, 1 - wrong / all_ if all_ else 0.0
