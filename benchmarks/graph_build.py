"""CPU time of one graph of 500 assets and 8640 bars, against the Gram products that any linear builder needs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.result import Result
from streamforge_assets.graphs.build import build_graph, build_graph_from_moments
from streamforge_assets.graphs.moments import day_moments, lagged_moments
from streamforge_assets.simulator.market import BARS, MarketParameters
from streamforge_assets.study.markets import study_market

ASSETS, STEPS, SEED, ROUNDS = 500, 8640, 101, 5
SECONDS, TIMES = 0.5, 2.5
DAY_SECONDS = 0.05


def run() -> list[Result]:
    """Measure on one thread: whole build, and a day added to the moments of a month."""
    panel = study_market(MarketParameters(n=ASSETS, seed=SEED, gated=True), STEPS).panel
    z = panel.z
    before = np.vstack([np.zeros((1, ASSETS)), z[:-1]])

    def gram() -> None:
        # Z'Z and Z'Z(-1) give the VAR, and the products of squares its HC0 variances.
        _ = z.T @ z, z.T @ before, (z * z).T @ (before * before)

    month = lagged_moments(panel.rows(0, STEPS - BARS), 1)
    with threadpool_limits(1):
        build, products, one_day = _least(
            (
                lambda: build_graph(panel, data_hash=""),
                gram,
                lambda: month + day_moments(panel, 1, STEPS - BARS, STEPS),
            )
        )
    assert build_graph_from_moments(panel.symbols, month).symbols == panel.symbols
    ratio = build / products
    text = f"Gram and HC0 products in double: {products:.2f} s; build {build:.2f} s (or at most {SECONDS} s)"
    return [
        Result("graph_build", ratio, "of their CPU time", TIMES, text, ratio <= TIMES or build <= SECONDS),
        Result(
            "graph_day_added", one_day, "CPU s", DAY_SECONDS, "one more day to a month", one_day <= DAY_SECONDS
        ),
    ]


def _least(calls: tuple[Callable[[], object], ...]) -> list[float]:
    """The least CPU seconds of each call, taking turns."""
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for at, call in enumerate(calls):
            started = time.process_time()
            call()
            best[at] = min(best[at], time.process_time() - started)
    return best
