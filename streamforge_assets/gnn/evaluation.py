"""How good forecasts are, how sure that is, and whether they beat the others: everything a report needs.

Conventions: row t is a forecast made at the end of bar t for bar t + 1, in raw log returns; `realised[t]` is the
log return of bar t + 1; `sigma[t]` the volatility known at t; `mask[t]` whether `realised[t]` may be used.
The headline IC is taken on raw returns, as published work does; `scaled_ic` on returns over sigma, and R², slope
and calibration in units of sigma, so that no volatile asset or hour decides them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resources.errors import Rejected
from streamforge_assets.gnn import scores as measure
from streamforge_assets.gnn.bootstrap import RESAMPLES, Estimate, block_length, estimate, resampled_sums
from streamforge_assets.gnn.portfolio import COSTS, Portfolio, trade
from streamforge_assets.gnn.scores import Bin, Line

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FIVE_MINUTE_BARS_A_YEAR = 365 * 288
CROSS_SECTION = "IC: Pearson correlation across assets in each bar, averaged over bars."
OVER_TIME = (
    "Fewer than three assets: a correlation across them is not defined. IC here is each asset's correlation over"
    " time, averaged over assets; it is not comparable with the IC of a cross-section."
)


@dataclass(frozen=True)
class Scores:
    """One forecast's measures; an `Estimate` carries a 95 % block-bootstrap interval.

    Args:
        name: the forecast.
        ic: mean IC of the defined bars.
        rank_ic: the same with ranks.
        scaled_ic: the same on returns over sigma.
        icir: mean IC over its standard deviation per bar, not annualised; 0 where IC never varies.
        r2: 1 - Σ(y - ŷ)² / Σy², pooled, y = realised / sigma: against zero, not against the mean.
        accuracy: share of right signs; None where the forecast never takes a side.
        accuracy_by_size: the same by decile of |ŷ|.
        auc: of the sign of the outcome; None where all rose or all fell.
        slope: Mincer-Zarnowitz, 1 if calibrated; None for a constant forecast.
        calibration: deciles of ŷ.
        portfolio: what it would have earned.
        reference_gain: IC of the reference minus IC of this, paired by bar; None for the reference itself.
        best_gap: IC of this minus IC of the best baseline, paired; None for that baseline or without one.
    """

    name: str
    ic: Estimate
    rank_ic: Estimate
    scaled_ic: Estimate
    icir: float
    r2: Estimate
    accuracy: Estimate | None
    accuracy_by_size: tuple[Bin, ...]
    auc: float | None
    slope: Line | None
    calibration: tuple[Bin, ...]
    portfolio: Portfolio
    reference_gain: Estimate | None
    best_gap: Estimate | None


@dataclass(frozen=True)
class Evaluation:
    """Scores of all forecasts on the same bars, and how they were made.

    Args:
        reference: the forecast that the others are compared with.
        best_baseline: the baseline with the highest mean IC, chosen on these very bars, which favours baselines.
        cross_section: False where fewer than three assets made IC a correlation over time.
        ic_note: what IC means here, in words.
        bars: T.
        defined: bars whose IC is defined; the others are left out of every mean of IC.
        pairs: unmasked pairs of bar and asset.
        block: mean length of the bootstrap's blocks, bars.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
        trials: configurations tried, for the deflated Sharpe ratio.
        scores: one for each forecast, in the order given.
    """

    reference: str
    best_baseline: str | None
    cross_section: bool
    ic_note: str
    bars: int
    defined: int
    pairs: int
    block: float
    resamples: int
    seed: int
    trials: int
    scores: tuple[Scores, ...]

    def __getitem__(self, name: str) -> Scores:
        """The scores of the forecast `name`.

        Raises:
            KeyError: when it was not evaluated.
        """
        for found in self.scores:
            if found.name == name:
                return found
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(found.name == name for found in self.scores)

    @property
    def undefined(self) -> int:
        """Bars without an IC: fewer than three assets counted, or their returns were all equal."""
        return self.bars - self.defined

    def to_json(self) -> dict[str, object]:
        """Plain dictionaries, lists, numbers and None."""
        return {**dataclasses.asdict(self), "undefined": self.undefined}


def evaluate(
    forecasts: Mapping[str, Floats],
    realised: Floats,
    sigma: Floats,
    mask: Mask,
    reference: str = "gnn",
    seed: int = 0,
    *,
    not_baselines: Collection[str] = ("oracle",),
    bars_per_year: float = FIVE_MINUTE_BARS_A_YEAR,
    trials: int = 1,
    costs: Sequence[float] = COSTS,
    block: float | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Score every forecast on the same bars, with intervals from the same bootstrap resamples.

    Args:
        forecasts: raw log returns, each (T, N); what stands under a False mask is never looked at.
        realised: log return of the bar after, (T, N).
        sigma: volatility known at t, (T, N), positive where unmasked.
        mask: which pairs count, (T, N).
        reference: the forecast whose gain over every other is estimated.
        seed: of the bootstrap.
        not_baselines: forecasts that cannot be the best baseline, such as the oracle.
        bars_per_year: to annualise Sharpe ratios.
        trials: configurations tried before this one was chosen, itself included.
        costs: per unit traded, basis points.
        block: mean block length in bars; None chooses it from the IC series (Politis & White 2004), the longest
            that any forecast asks for.
        resamples: of the bootstrap.

    Raises:
        Rejected: for shapes that differ, a reference that is absent, no usable pair, or numbers not finite.
    """
    _check(forecasts, realised, sigma, mask, reference)
    names, cross = tuple(forecasts), mask.shape[1] >= measure.LEAST_ASSETS
    columns = {name: _series(forecasts[name], realised, sigma, mask, cross=cross) for name in names}
    ics = np.stack([columns[name][:, 0] for name in names], axis=1)
    defined = np.isfinite(ics).all(axis=1)
    if block is None:
        block = max((block_length(ics[defined, k]) for k in range(len(names))), default=1.0)
    boot = _Bootstrap(columns, block, resamples, seed)
    candidates = [name for name in names if name != reference and name not in not_baselines]
    best = max(candidates, key=lambda name: boot.mean(name, 0), default=None)
    found = []
    for name in names:
        forecast = forecasts[name]
        scaled = (np.where(mask, forecast, 0.0) / np.where(mask, sigma, 1.0), np.where(mask, realised, 0.0))
        outcome = scaled[1] / np.where(mask, sigma, 1.0)
        spread = float(columns[name][defined, 0].std(ddof=1)) if defined.sum() > 1 else 0.0
        found.append(
            Scores(
                name=name,
                ic=boot.ratio(name, 0, 3),
                rank_ic=boot.ratio(name, 1, 3),
                scaled_ic=boot.ratio(name, 2, 3),
                icir=boot.mean(name, 0) / spread if spread > 1e-12 else 0.0,
                r2=boot.r2(name),
                accuracy=boot.ratio(name, 6, 7) if columns[name][:, 7].any() else None,
                accuracy_by_size=measure.accuracy_by_size(forecast, realised, sigma, mask),
                auc=measure.sign_auc(scaled[0], realised, mask),
                slope=measure.mincer_zarnowitz(scaled[0], outcome, mask),
                calibration=measure.calibration(forecast, realised, sigma, mask),
                portfolio=trade(forecast, realised, mask, bars_per_year=bars_per_year, trials=trials, costs=costs),
                reference_gain=None if name == reference else boot.difference(reference, name),
                best_gap=None if best is None or name == best else boot.difference(name, best),
            )
        )
    return Evaluation(
        reference=reference,
        best_baseline=best,
        cross_section=cross,
        ic_note=CROSS_SECTION if cross else OVER_TIME,
        bars=len(mask),
        defined=int(defined.sum()),
        pairs=int(mask.sum()),
        block=float(block),
        resamples=resamples,
        seed=seed,
        trials=trials,
        scores=tuple(found),
    )


def ic_per_bar(forecast: Floats, realised: Floats, mask: Mask) -> Floats:
    """The headline IC of each bar, (T,), nan where undefined: across assets, or over time if fewer than three."""
    if mask.shape[1] >= measure.LEAST_ASSETS:
        return measure.ic_series(forecast, realised, mask)
    return measure.time_series_ic(forecast, realised, mask)


class _Bootstrap:
    """Eight sums per forecast over common resamples.

    IC, rank IC, scaled IC, bars defined, squared errors, squares, signs that were right, signs judged.
    """

    def __init__(self, columns: Mapping[str, Floats], block: float, resamples: int, seed: int) -> None:
        clean = {name: np.nan_to_num(columns[name]) for name in columns}
        self._plain = {name: clean[name].sum(axis=0) for name in clean}
        stacked = np.concatenate(list(clean.values()), axis=1)
        sums = resampled_sums(stacked, block=block, resamples=resamples, rng=np.random.default_rng(seed))
        width = sums.shape[1] // len(clean)
        self._sums = {name: sums[:, k * width : (k + 1) * width] for k, name in enumerate(clean)}

    def mean(self, name: str, column: int) -> float:
        """The mean of an IC column over the defined bars."""
        plain = self._plain[name]
        return float(plain[column] / max(plain[3], 1.0))

    def ratio(self, name: str, above: int, below: int) -> Estimate:
        plain, sums = self._plain[name], self._sums[name]
        value = float(plain[above] / max(plain[below], 1.0))
        return estimate(value, sums[:, above] / np.maximum(sums[:, below], 1.0))

    def difference(self, name: str, other: str) -> Estimate:
        """Mean IC of `name` minus that of `other`, on the same resamples."""
        resampled = [self._sums[key][:, 0] / np.maximum(self._sums[key][:, 3], 1.0) for key in (name, other)]
        return estimate(self.mean(name, 0) - self.mean(other, 0), resampled[0] - resampled[1])

    def r2(self, name: str) -> Estimate:
        plain, sums = self._plain[name], self._sums[name]
        value = 1 - plain[4] / plain[5] if plain[5] else 0.0
        return estimate(float(value), 1 - sums[:, 4] / np.where(sums[:, 5] > 0, sums[:, 5], 1.0))


def _series(forecast: Floats, realised: Floats, sigma: Floats, mask: Mask, *, cross: bool) -> Floats:
    """The eight columns that `_Bootstrap` sums, shape (T, 8)."""
    scale = np.where(mask, sigma, 1.0)
    z, y = np.where(mask, forecast, 0.0) / scale, np.where(mask, realised, 0.0) / scale
    if cross:
        ic = measure.ic_series(forecast, realised, mask)
        rank, scaled = measure.rank_ic_series(forecast, realised, mask), measure.ic_series(z, y, mask)
    else:
        ic, scaled = measure.time_series_ic(forecast, realised, mask), measure.time_series_ic(z, y, mask)
        by_asset = [measure.ranks(values.T, mask.T).T for values in (forecast, realised)]
        rank = measure.time_series_ic(by_asset[0], by_asset[1], mask)
    defined = np.isfinite(ic)
    errors, squares = measure.squares(forecast, realised, sigma, mask)
    right, judged = measure.hits(forecast, realised, mask)
    rank, scaled = np.where(defined, rank, np.nan), np.where(defined, scaled, np.nan)
    return np.stack([ic, rank, scaled, defined.astype(np.float64), errors, squares, right, judged], axis=1)


def _check(forecasts: Mapping[str, Floats], realised: Floats, sigma: Floats, mask: Mask, reference: str) -> None:
    if reference not in forecasts:
        raise Rejected(f"no forecast is called {reference}; there are {', '.join(forecasts) or 'none'}")
    if mask.ndim != 2 or not mask.any():
        raise Rejected(
            "no bar of any asset may be used: nothing to evaluate; choose a longer span or more symbols"
        )
    arrays = {"realised": realised, "sigma": sigma, **{f"forecast {name}": forecasts[name] for name in forecasts}}
    for name, array in arrays.items():
        if array.shape != mask.shape:
            raise Rejected(f"{name} has shape {array.shape}, the mask {mask.shape}; they must be equal")
        if not np.isfinite(array[mask]).all():
            raise Rejected(f"{name} holds numbers that are not finite where the mask says they may be used")
    if not (sigma[mask] > 0).all():
        raise Rejected("sigma must be positive wherever the mask says that a return may be used")
