"""What a forecast would have earned: a long-short portfolio after costs, and how surprising its Sharpe ratio is.

A sanity check of the signal, not a backtest: no spread, impact or funding, and every order filled at the close.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

BASIS_POINT = 1e-4
COSTS = (0.0, 1.0, 2.0, 5.0, 10.0)
EULER = 0.5772156649015329


@dataclass(frozen=True)
class Net:
    """Result at one cost level.

    Args:
        cost_bp: paid per unit traded, in basis points.
        mean_bp: mean return per bar on one unit of gross exposure, in basis points.
        sharpe: mean over standard deviation, annualised; 0 for a portfolio that never held anything.
        deflated: probability that the true Sharpe ratio is above the best expected of so many skill-less trials.
    """

    cost_bp: float
    mean_bp: float
    sharpe: float
    deflated: float


@dataclass(frozen=True)
class Portfolio:
    """What positions taken by the forecast earned.

    Args:
        rule: how positions follow from forecasts, in words.
        turnover: mean |change of position| per bar, units of gross exposure; 2 is all of it sold and bought.
        breakeven_bp: cost per unit traded at which nothing is left; None without trades.
        net: one entry for each cost level.
        delayed: the same with positions one bar late.
    """

    rule: str
    turnover: float
    breakeven_bp: float | None
    net: tuple[Net, ...]
    delayed: tuple[Net, ...]


def long_short(forecast: Floats, mask: Mask) -> Floats:
    """Positions (T, N): half a unit over the highest decile, minus half over the lowest, of each bar's forecasts.

    At least one asset a side. A bar of equal forecasts or a single asset holds nothing; equal forecasts at the
    edge of a decile share its weight, so the order of columns cannot matter.
    """
    count = mask.sum(axis=1, keepdims=True)
    side = np.where(count >= 2, np.maximum(1, count // 10), 0)
    top = _edge_weights(np.where(mask, forecast, -np.inf), side)
    bottom = _edge_weights(np.where(mask, -forecast, -np.inf), side)
    return np.asarray(np.where(mask, (top - bottom) / np.maximum(2 * side, 1), 0.0))


def _edge_weights(values: Floats, side: NDArray[np.int64]) -> Floats:
    """1 for the `side` largest of each row, a share for those tied at its edge; rows sum to `side`."""
    order = -np.sort(-values, axis=1)
    edge = np.take_along_axis(order, np.maximum(side - 1, 0), axis=1)
    above, tied = values > edge, values == edge
    share = (side - above.sum(axis=1, keepdims=True)) / np.maximum(tied.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.where(side > 0, above + tied * share, 0.0))


def by_sign(forecast: Floats, mask: Mask) -> Floats:
    """Positions (T, N) for fewer than three assets: the forecast's sign, one unit shared by the unmasked."""
    return np.asarray(np.where(mask, np.sign(forecast), 0.0) / np.maximum(mask.sum(axis=1, keepdims=True), 1))


def trade(
    forecast: Floats,
    realised: Floats,
    mask: Mask,
    *,
    bars_per_year: float,
    trials: int = 1,
    costs: Sequence[float] = COSTS,
) -> Portfolio:
    """Hold what the forecast of bar t says through bar t + 1, whose log return is `realised[t]`.

    Positions use nothing of the bar that they earn, except that the mask leaves out assets without a return.
    Log returns are made simple ones.
    Costs are paid on every change of position, the first included.
    """
    few = mask.shape[1] < 3
    held = by_sign(forecast, mask) if few else long_short(forecast, mask)
    rule = (
        "the sign of the forecast, one unit shared by all assets"
        if few
        else "half a unit long the highest decile, half short the lowest, at least one asset a side"
    )
    gain = np.expm1(np.where(mask, realised, 0.0))
    late = np.where(mask, np.concatenate([np.zeros_like(held[:1]), held[:-1]]), 0.0)
    gross, traded = (held * gain).sum(axis=1), _traded(held)
    total = float(traded.sum())
    return Portfolio(
        rule=rule,
        turnover=float(traded.mean()) if len(traded) else 0.0,
        breakeven_bp=float(gross.sum()) / total / BASIS_POINT if total else None,
        net=_net(gross, traded, costs, bars_per_year, trials),
        delayed=_net((late * gain).sum(axis=1), _traded(late), costs, bars_per_year, trials),
    )


def _traded(held: Floats) -> Floats:
    return np.asarray(np.abs(np.diff(held, axis=0, prepend=0.0)).sum(axis=1))


def _net(
    gross: Floats, traded: Floats, costs: Sequence[float], bars_per_year: float, trials: int
) -> tuple[Net, ...]:
    found = []
    for cost in costs:
        net = gross - traded * cost * BASIS_POINT
        mean = float(net.mean()) if len(net) else 0.0
        yearly = sharpe(net) * float(np.sqrt(bars_per_year))
        found.append(Net(float(cost), mean / BASIS_POINT, yearly, deflated_sharpe(net, trials)))
    return tuple(found)


def sharpe(returns: Floats) -> float:
    """Mean over standard deviation per bar; 0 where nothing varies."""
    spread = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    return float(returns.mean()) / spread if spread > 1e-300 else 0.0


def deflated_sharpe(returns: Floats, trials: int = 1, variance: float | None = None) -> float:
    """Probability that the true Sharpe ratio exceeds what the luckiest of `trials` without skill would show.

        DSR = Φ((SR - SR0) √(n - 1) / √(1 - γ3 SR + (γ4 - 1) / 4 SR²))
        SR0 = √V ((1 - γ) Φ⁻¹(1 - 1/K) + γ Φ⁻¹(1 - 1/(K e)))

    per bar, γ3 and γ4 skewness and kurtosis, γ Euler's constant, K trials, V the variance of Sharpe ratios among
    them; None takes that of a ratio estimated without skill, 1 / (n - 1). One trial has SR0 = 0.
    Bailey & López de Prado, "The Deflated Sharpe Ratio", J. Portfolio Management 40(5), 2014.
    Serial dependence is ignored, as there. Half where nothing varies: no evidence either way.
    """
    n, ratio = len(returns), sharpe(returns)
    if n < 3 or returns.std() < 1e-300:
        return 0.5
    centred = (returns - returns.mean()) / returns.std()
    skewness, kurtosis = float((centred**3).mean()), float((centred**4).mean())
    luck = 0.0
    if trials > 1:
        spread = np.sqrt(1 / (n - 1) if variance is None else variance)
        luck = float(spread * ((1 - EULER) * norm.ppf(1 - 1 / trials) + EULER * norm.ppf(1 - 1 / (trials * np.e))))
    noise = max(1 - skewness * ratio + (kurtosis - 1) / 4 * ratio**2, 1e-12)
    return float(norm.cdf((ratio - luck) * np.sqrt(n - 1) / np.sqrt(noise)))
