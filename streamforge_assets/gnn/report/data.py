"""Everything an honest report shows, as plain values: whoever runs the study fills them, figures only read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamforge_assets.gnn.evaluation import FIVE_MINUTE_BARS_A_YEAR
from streamforge_assets.graphs.graph import AssetGraph

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
SpanKind = Literal["train", "purge", "validation", "test", "embargo"]


@dataclass(frozen=True)
class Span:
    """What a stretch of time was used for, [start, end), microseconds since the epoch."""

    kind: SpanKind
    start: int
    end: int


@dataclass(frozen=True)
class Fold:
    """One walk-forward fold's test bars: what every model said and what came.

    Args:
        label: its name, such as the first test day.
        symbols: the N symbols.
        times: open time of bar t, at whose end row t was forecast, microseconds, shape (T,), int64.
        forecasts: raw log returns for bar t + 1 by model name, each (T, N); the model and all its baselines.
        realised: log return of bar t + 1, shape (T, N).
        sigma: volatility known at t, shape (T, N).
        mask: whether `realised[t]` may be used, shape (T, N).
        oracle: the exact expectation of `realised`, shape (T, N); None where nobody knows it.
        graph: the graph that the model used.
        planted: true edges [follower, leader], shape (N, N), not zero where there is one: bool, or signed
            weights to show their direction; None where nobody knows them.
        history: training curves, one value per epoch: `loss`, `validation_loss`, `lr`, `grad_norm`; any may lack.
        spans: how the fold's time was divided, for the drawing of the split.
        seconds: CPU seconds that training took.
    """

    label: str
    symbols: tuple[str, ...]
    times: NDArray[np.int64]
    forecasts: Mapping[str, Floats]
    realised: Floats
    sigma: Floats
    mask: Mask
    oracle: Floats | None = None
    graph: AssetGraph | None = None
    planted: Mask | Floats | None = None
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class LeftOut:
    """A symbol that was asked for and not used, and why, in a few words."""

    symbol: str
    why: str


@dataclass(frozen=True)
class DataCard:
    """What the data were.

    Args:
        source: where they came from, such as "simulated exchange" or "Binance spot".
        interval: length of a bar, such as "5m".
        gaps: stretches of missing bars, as text, the longest first.
        no_trade_share: share of bars of a symbol in which nothing traded, by symbol.
        hashes: name of an input and its digest.
        left_out: symbols asked for and not used.
    """

    source: str
    interval: str
    gaps: tuple[str, ...] = ()
    no_trade_share: Mapping[str, float] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class RunCard:
    """How the results were made.

    Args:
        configurations: configurations of the model tried on data that overlap these, itself included.
        seeds: training seeds averaged or chosen among.
        cpu_seconds: of everything; None if not measured.
        hardware: processor, cores used, accelerator.
        commit: of the code.
        versions: package and version.
        configuration: setting and value of the model shown.
        made_at: when, as text.
    """

    configurations: int = 1
    seeds: tuple[int, ...] = ()
    cpu_seconds: float | None = None
    hardware: str = "not recorded"
    commit: str = "not recorded"
    versions: Mapping[str, str] = field(default_factory=dict)
    configuration: Mapping[str, object] = field(default_factory=dict)
    made_at: str = "not recorded"


@dataclass(frozen=True)
class SeedScore:
    """Mean IC and R² of the model trained from one seed, over all folds."""

    seed: int
    ic: float
    r2: float


@dataclass(frozen=True)
class Ablation:
    """The model with one thing changed: its mean IC, and full model minus this with its 95 % interval."""

    label: str
    ic: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Check:
    """A check that ran, whether it passed, and what it found in one sentence."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Target:
    """A number promised beforehand and the number reached."""

    name: str
    wanted: float
    reached: float
    higher_is_better: bool = True

    @property
    def met(self) -> bool:
        return self.reached >= self.wanted if self.higher_is_better else self.reached <= self.wanted


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision at each recall of one ranking of candidate edges, and the mean precision over them."""

    label: str
    recall: Sequence[float]
    precision: Sequence[float]
    average: float


@dataclass(frozen=True)
class RecoveryCurve:
    """Edge F1 of one builder against signal R² (a share, .05 is 5 %) or against bars T: which, its place says."""

    label: str
    x: Sequence[float]
    f1: Sequence[float]


@dataclass(frozen=True)
class Throughput:
    """Training windows per second of one batching style at each number of assets."""

    style: str
    n: Sequence[int]
    windows_per_second: Sequence[float]


@dataclass(frozen=True)
class BuildTime:
    """CPU seconds of one graph builder at each number of assets."""

    method: str
    n: Sequence[int]
    seconds: Sequence[float]


@dataclass(frozen=True)
class RegimeRecovery:
    """One policy's IC as a share of the oracle's, by bars since the planted graph changed (negative: before)."""

    label: str
    bars_since_switch: Sequence[float]
    ic_share: Sequence[float]


@dataclass(frozen=True)
class NullLeak:
    """Mean IC on a market without signal: `honest` pipelines must find none, leaky ones show the danger."""

    label: str
    ic: float
    low: float
    high: float
    t: float
    honest: bool = False


@dataclass(frozen=True)
class ReportData:
    """One report. Only `title`, `folds`, `card` and `run` are needed; what is absent, the report says it lacks.

    Args:
        title: of the page.
        folds: in order of time.
        card: the data.
        run: how it was made.
        model: the forecast that the report is about.
        not_baselines: other forecasts that are no baselines, such as ensembles of the model.
        bars_per_year: to annualise Sharpe ratios.
        seed: of the bootstrap.
    """

    title: str
    folds: tuple[Fold, ...]
    card: DataCard
    run: RunCard
    model: str = "gnn"
    not_baselines: tuple[str, ...] = ()
    bars_per_year: float = FIVE_MINUTE_BARS_A_YEAR
    seed: int = 0
    seed_scores: tuple[SeedScore, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    checks: tuple[Check, ...] = ()
    targets: tuple[Target, ...] = ()
    precision_recall: tuple[PrecisionRecall, ...] = ()
    recovery_by_signal: tuple[RecoveryCurve, ...] = ()
    recovery_by_bars: tuple[RecoveryCurve, ...] = ()
    throughput: tuple[Throughput, ...] = ()
    build_times: tuple[BuildTime, ...] = ()
    regimes: tuple[RegimeRecovery, ...] = ()
    null_leaks: tuple[NullLeak, ...] = ()


def precision_recall(label: str, strength: Floats, planted: Mask) -> PrecisionRecall:
    """The curve of ranking all directed pairs by `strength` (N, N), the diagonal left out, against the truth.

    Pairs of equal strength enter together; the average is Σ (recall step) · precision.
    """
    off = ~np.eye(len(planted), dtype=np.bool_)
    score, truth = strength[off], planted[off]
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(truth[order])
    last = np.append(np.diff(score[order]) != 0, True) if len(score) else np.zeros(0, dtype=np.bool_)
    precision = (found / np.arange(1, len(found) + 1))[last]
    recall = (found / max(int(truth.sum()), 1))[last]
    average = float((np.diff(recall, prepend=0.0) * precision).sum())
    return PrecisionRecall(label, recall.tolist(), precision.tolist(), average)
