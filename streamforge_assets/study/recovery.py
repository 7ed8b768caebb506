"""How well builders find planted edges: precision, recall, F1 and average precision on simulated markets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamforge_assets.graphs.agreement import edge_agreement
from streamforge_assets.graphs.build import DEFAULT, GraphConfig, build_ranked
from streamforge_assets.graphs.graph import Bools, Floats, edges_of
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.markets import StudyMarket, planted_edges, study_market


@dataclass(frozen=True)
class Recovery:
    """Directed edges between different assets, at any lag, against the planted ones.

    `average_precision` is of the ranking of all pairs, so it does not depend on where a method cuts; NaN for a
    market without edges. `found` and `planted` count edges.
    """

    precision: float
    recall: float
    f1: float
    average_precision: float
    found: int
    planted: int


@dataclass(frozen=True)
class Case:
    """A kind of market to recover edges from; `n`, `steps`, `r2`, `lags` and `null` are the simulator's."""

    name: str
    n: int
    steps: int
    r2: float = 0.05
    lags: int = 1
    null: bool = False

    def market(self, seed: int, *, gated: bool) -> StudyMarket:
        """The market of a seed."""
        parameters = MarketParameters(n=self.n, seed=seed, r2=self.r2, gated=gated, null=self.null, lags=self.lags)
        return study_market(parameters, self.steps)


CASES = (
    Case("50 assets", 50, 8640),
    Case("100 assets", 100, 8640),
    Case("500 assets", 500, 8640),
    Case("short: 100 assets, 1440 bars", 100, 1440),
    Case("weak: 50 assets, R2 1 %", 50, 8640, r2=0.01),
    Case("lags 1-3, 50 assets", 50, 8640, lags=3),
)


def compare(truth: Bools, found: Bools, rank: Floats) -> Recovery:
    """`found` edges (N, N, axes follower and leader) and the `rank` of all pairs against `truth`."""
    off = ~np.eye(len(truth), dtype=np.bool_)
    agreed = edge_agreement(found, truth)
    return Recovery(
        precision=agreed.precision,
        recall=agreed.recall,
        f1=agreed.f1,
        average_precision=average_precision(truth[off], rank[off]),
        found=agreed.found,
        planted=agreed.planted,
    )


def average_precision(truth: Bools, rank: Floats) -> float:
    """Mean over true items of the precision at their place in the ranking, highest first; NaN without any."""
    ordered = truth[np.argsort(-rank, kind="stable")]
    if not ordered.any():
        return float("nan")
    precision = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    return float(np.mean(precision[ordered]))


def recover(market: StudyMarket, config: GraphConfig = DEFAULT) -> Recovery:
    """Build the graph of a market's panel and compare it with what was planted."""
    graph, rank = build_ranked(market.panel, config, data_hash="")
    return compare(planted_edges(market.networks[0]), edges_of(graph.adjacency()), rank.max(axis=0))


def recoveries(
    case: Case, seeds: Sequence[int], config: GraphConfig, *, gated: Sequence[bool] = (False, True)
) -> Iterator[Recovery]:
    """One recovery for each seed and kind of edge."""
    for seed in seeds:
        for kind in gated:
            yield recover(case.market(seed, gated=kind), config)


def mean(found: Sequence[Recovery]) -> Recovery:
    """The means of the figures, the sums of the counts."""
    return Recovery(
        precision=float(np.mean([item.precision for item in found])),
        recall=float(np.mean([item.recall for item in found])),
        f1=float(np.mean([item.f1 for item in found])),
        average_precision=float(np.mean([item.average_precision for item in found])),
        found=sum(item.found for item in found),
        planted=sum(item.planted for item in found),
    )
