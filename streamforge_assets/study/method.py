"""The study of the method that every report shows: small experiments on simulated markets, measured here.

Each experiment is a function without arguments that runs in any process and gives plain values.
"""

from __future__ import annotations

import hashlib
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from streamforge_assets.gnn.report.data import (
    BuildTime,
    NullLeak,
    PrecisionRecall,
    RecoveryCurve,
    RegimeRecovery,
    Throughput,
    precision_recall,
)
from streamforge_assets.graphs.build import GraphConfig, Method, build_graph, build_ranked
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.leaks import null_market_leaks
from streamforge_assets.study.markets import planted_edges, study_market
from streamforge_assets.study.recovery import recover
from streamforge_assets.study.regimes import regime_recovery

METHODS: tuple[Method, ...] = ("auto", "var", "cross_correlation")
ASSETS, SEED = 30, 41
SIGNALS = (0.005, 0.01, 0.02, 0.05)
LENGTHS = (1440, 2880, 5760, 8640)
LENGTH, SIGNAL = 8640, 0.02
NULL_SEEDS = range(41, 46)
BATCHED = (20, 50, 100)
BUILT = (10, 30, 100, 300)


@dataclass(frozen=True)
class MethodStudy:
    """What the experiments found. Goes to JSON and back."""

    precision_recall: tuple[PrecisionRecall, ...]
    recovery_by_signal: tuple[RecoveryCurve, ...]
    recovery_by_bars: tuple[RecoveryCurve, ...]
    throughput: tuple[Throughput, ...]
    build_times: tuple[BuildTime, ...]
    regimes: tuple[RegimeRecovery, ...]
    null_leaks: tuple[NullLeak, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Sequence[Mapping[str, Any]]]) -> MethodStudy:
        """The study that `to_json` gave."""
        return cls(**{name: tuple(_KINDS[name](**item) for item in values[name]) for name in _KINDS})


_KINDS: dict[str, Callable[..., Any]] = {
    "precision_recall": PrecisionRecall,
    "recovery_by_signal": RecoveryCurve,
    "recovery_by_bars": RecoveryCurve,
    "throughput": Throughput,
    "build_times": BuildTime,
    "regimes": RegimeRecovery,
    "null_leaks": NullLeak,
}


def recovery_by_signal() -> list[RecoveryCurve]:
    """F1 of each builder by the share of variance that the planted network explains."""
    markets = [study_market(MarketParameters(n=ASSETS, seed=SEED, r2=r2), LENGTH) for r2 in SIGNALS]
    return [
        RecoveryCurve(method, SIGNALS, [recover(market, GraphConfig(method)).f1 for market in markets])
        for method in METHODS
    ]


def recovery_by_bars() -> list[RecoveryCurve]:
    """F1 of each builder by the number of bars."""
    parameters = MarketParameters(n=ASSETS, seed=SEED, r2=SIGNAL)
    markets = [study_market(parameters, bars) for bars in LENGTHS]
    return [
        RecoveryCurve(method, LENGTHS, [recover(market, GraphConfig(method)).f1 for market in markets])
        for method in METHODS
    ]


def rankings() -> list[PrecisionRecall]:
    """Precision and recall of each builder's ranking of all pairs, in one market."""
    market = study_market(MarketParameters(n=ASSETS, seed=SEED, r2=SIGNAL), LENGTH)
    truth = planted_edges(market.networks[0])
    ranks = {method: build_ranked(market.panel, GraphConfig(method))[1].max(axis=0) for method in METHODS}
    return [precision_recall(method, rank, truth) for method, rank in ranks.items()]


def batching_rates() -> list[Throughput]:
    """Training windows per CPU second, by how windows are made into batches."""
    import torch

    from streamforge_assets.study.throughput import loader_per_second, pieces_per_second, setting

    torch.set_num_threads(1)
    at = [setting(n) for n in BATCHED]
    return [
        Throughput("contiguous pieces (ours)", BATCHED, [pieces_per_second(item, seconds=0.5) for item in at]),
        Throughput(
            "PyG DataLoader, a Data per window", BATCHED, [_loader(loader_per_second, item) for item in at]
        ),
    ]


def _loader(measure: Callable[..., float], item: object) -> float:
    return measure(item, seconds=0.5, least=4)


def building_times() -> list[BuildTime]:
    """CPU seconds of each builder by the number of assets, on one thread."""
    panels = [study_market(MarketParameters(n=n, seed=SEED), LENGTH // 2).panel for n in BUILT]
    build_graph(panels[0])
    found = []
    for method in METHODS:
        seconds = []
        for panel in panels:
            began = time.process_time()
            build_graph(panel, GraphConfig(method))
            seconds.append(time.process_time() - began)
        found.append(BuildTime(method, BUILT, seconds))
    return found


def after_a_switch() -> list[RegimeRecovery]:
    """IC after a change of the planted network, by policy of refitting."""
    return [RegimeRecovery(row.label, row.since_switch, row.ic_share) for row in regime_recovery(SEED)]


def out_of_noise() -> list[NullLeak]:
    """IC that pipelines find where there is none."""
    return [
        NullLeak(row.label, row.ic.value, row.ic.low, row.ic.high, row.ic.t, row.honest)
        for row in null_market_leaks(NULL_SEEDS)
    ]


EXPERIMENTS: dict[str, Callable[[], list[Any]]] = {
    "precision_recall": rankings,
    "recovery_by_signal": recovery_by_signal,
    "recovery_by_bars": recovery_by_bars,
    "throughput": batching_rates,
    "build_times": building_times,
    "regimes": after_a_switch,
    "null_leaks": out_of_noise,
}
"""What fills each field of a `MethodStudy`."""


def run_experiment(name: str) -> list[Any]:
    """Run one experiment by name, on one thread."""
    from threadpoolctl import threadpool_limits

    # torch-geometric still calls what torch calls deprecated; a user of the report can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    with threadpool_limits(1):
        return EXPERIMENTS[name]()


def study_digest() -> str:
    """Changes with the code that the study measures and with the machine that it is measured on."""
    total = hashlib.sha256(f"{platform.machine()} {platform.node()} {np.__version__}".encode())
    for package in ("graphs", "gnn", "study", "simulator"):
        folder = files("streamforge_assets").joinpath(package)
        for source in sorted(folder.iterdir(), key=lambda item: item.name):
            if source.name.endswith(".py"):
                total.update(source.read_bytes())
    return total.hexdigest()
