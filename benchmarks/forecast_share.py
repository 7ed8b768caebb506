"""How much of the forecastable part of simulated markets the GNN forecasts, beside its baselines.

Seeds are ones that nothing was tuned on (1 to 9 were). A month of five-minute bars, three expanding folds, graph,
training and tuning on training rows only; see `streamforge_assets.study.forecasting`.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.result import Result
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.forecasting import GNN, Score, forecast_shares, null_t, regime_switch

SEEDS = (11, 12, 13, 21, 22, 23, 24, 25)
NULL_SEEDS = range(101, 121)
TREES = "lightgbm_graph"
STRONG_TREES = "lightgbm_leaders"
SPARSE = "sparse_var"


def run() -> list[Result]:
    """Measure linear and gated markets, a change of regime, and the null market."""
    torch.set_num_threads(1)
    linear = _scores(50, gated=False, baselines=(SPARSE,))
    small = _scores(20, gated=True, baselines=(SPARSE, TREES, STRONG_TREES))
    large = _scores(50, gated=True, baselines=(SPARSE, TREES, STRONG_TREES))
    return [*_linear(linear), *_gated("n20", small, 0.97), *_gated("n50", large, 0.98), *_time(large), *_others()]


def _scores(n: int, *, gated: bool, baselines: tuple[str, ...]) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = {}
    for seed in SEEDS:
        market = MarketParameters(n=n, seed=seed, r2=0.05, gated=gated)
        for name, score in forecast_shares(market, baselines=baselines).items():
            found.setdefault(name, []).append(score)
    return found


def _mean(scores: list[Score], field: str) -> float:
    return float(np.mean([getattr(score, field) for score in scores]))


def _linear(found: dict[str, list[Score]]) -> list[Result]:
    r2, ic = _mean(found[GNN], "r2"), _mean(found[GNN], "ic")
    sparse = f"sparse VAR {_mean(found[SPARSE], 'r2'):.3f} / {_mean(found[SPARSE], 'ic'):.3f}"
    behind = max(b.r2 - a.r2 for a, b in zip(found[GNN], found[SPARSE], strict=True))
    return [
        Result("linear_n50_r2", r2, "of the oracle's R2", 0.98, sparse, r2 >= 0.98),
        Result("linear_n50_ic", ic, "of the oracle's IC", 0.99, sparse, ic >= 0.99),
        Result("linear_n50_behind", behind, "R2 share", 0.005, "worst seed, behind sparse VAR", behind <= 0.005),
    ]


def _gated(name: str, found: dict[str, list[Score]], target: float) -> list[Result]:
    ic = _mean(found[GNN], "ic")
    reference = ", ".join(f"{item} {_mean(found[item], 'ic'):.3f}" for item in found if item != GNN)
    gains = {item: _mean(found[GNN], "r2") - _mean(found[item], "r2") for item in (TREES, STRONG_TREES)}
    return [
        Result(f"gated_{name}_ic", ic, "of the oracle's IC", target, reference, ic >= target),
        Result(
            f"gated_{name}_gain",
            gains[TREES],
            "R2 share",
            0.10,
            f"over LightGBM with graph aggregates; over the strongest trees we made {gains[STRONG_TREES]:+.3f}",
            gains[TREES] >= 0.10,
        ),
    ]


def _time(found: dict[str, list[Score]]) -> list[Result]:
    seconds = _mean(found[GNN], "seconds")
    return [Result("fold_seconds_n50", seconds, "CPU-s", 3.0, "two graphs and the training", seconds <= 3.0)]


def _others() -> list[Result]:
    switched = float(np.mean([regime_switch(seed) for seed in SEEDS]))
    quiet = sum(abs(null_t(seed)) < 2 for seed in NULL_SEEDS)
    return [
        Result(
            "regime_switch_ic",
            switched,
            "of the oracle's IC",
            0.97,
            "10 days after, trained on them",
            switched >= 0.97,
        ),
        Result("null_markets", quiet, f"of {len(NULL_SEEDS)} with |t| < 2", 19, "whole pipeline", quiet >= 19),
    ]
