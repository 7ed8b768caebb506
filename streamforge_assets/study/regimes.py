"""What becomes of a graph when the market changes its mind: forecasts around a switch of the planted network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamforge_assets.gnn.evaluation import ic_per_bar
from streamforge_assets.graphs.build import build_graph
from streamforge_assets.graphs.forecast import sparse_var_forecast
from streamforge_assets.market.panel import Floats, Panel
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.markets import study_market

BARS, SWITCH, STEP, WINDOW = 8640, 4320, 720, 2880
GAP = 6
"""Bars left out between what a graph is built from and what it forecasts."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """One policy: share of the oracle's IC in each stretch, and where that begins, in bars since the switch."""

    label: str
    since_switch: tuple[int, ...]
    ic_share: tuple[float, ...]


def regime_recovery(seed: int, n: int = 20) -> list[Recovery]:
    """Refit a sparse VAR every `STEP` bars by three policies, in a market whose network changes once."""
    market = study_market(MarketParameters(n=n, seed=seed, gated=False, switch_step=SWITCH), BARS)
    starts = range(WINDOW, BARS - STEP + 1, STEP)
    policies: Mapping[str, int | None] = {
        "built once, before": 0,
        "all bars so far": None,
        f"the last {WINDOW} bars": WINDOW,
    }
    found = []
    for label, window in policies.items():
        shares = []
        for start in starts:
            if window == 0:
                train = market.panel.rows(0, WINDOW - GAP)
            else:
                train = market.panel.rows(0 if window is None else start - window, start - GAP)
            ahead = market.panel.rows(start, start + STEP)
            truth = market.mu[start : start + STEP]
            shares.append(_mean_ic(sparse_var_forecast(build_graph(train), ahead), ahead) / _mean_ic(truth, ahead))
        found.append(Recovery(label, tuple(start - SWITCH for start in starts), tuple(shares)))
    return found


def _mean_ic(forecast: Floats, panel: Panel) -> float:
    return float(np.nanmean(ic_per_bar(forecast[:-1], panel.returns[1:], panel.mask[1:])))
