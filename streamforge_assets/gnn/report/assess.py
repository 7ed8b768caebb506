"""What the numbers of a report say: evaluation over all folds, the verdict, and everything that did not work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resources.errors import Rejected
from streamforge_assets.gnn.bootstrap import Estimate, mean_estimate
from streamforge_assets.gnn.evaluation import Evaluation, Scores, evaluate, ic_per_bar
from streamforge_assets.gnn.report import wording as say
from streamforge_assets.gnn.report.data import Fold, ReportData
from streamforge_assets.graphs.agreement import edge_agreement

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Tone = Literal["beats", "tie", "beaten", "none"]

ORACLE = "oracle"
SUSPICIOUS = 0.1
"""Mean IC above which, on real data, a leak is likelier than skill (gnn.md §1.1)."""
ENOUGH_SEEDS = 5


@dataclass(frozen=True)
class Stacked:
    """All folds under each other, on the union of their symbols; `fold` (T,) says which each bar belongs to."""

    symbols: tuple[str, ...]
    times: NDArray[np.int64]
    forecasts: dict[str, Floats]
    realised: Floats
    sigma: Floats
    mask: Mask
    fold: NDArray[np.int64]


@dataclass(frozen=True)
class FoldScore:
    """One fold: mean IC of the model and of the best baseline, edges, and edge F1 where the truth is known."""

    label: str
    bars: int
    ic: Estimate
    baseline: float | None
    edges: int | None
    f1: float | None


@dataclass(frozen=True)
class Verdict:
    """The first thing that a reader sees: a headline and what qualifies it."""

    tone: Tone
    headline: str
    context: str


@dataclass(frozen=True)
class Assessment:
    """What `assess` finds. `stacked` and `evaluation` are None for a report without forecasts."""

    stacked: Stacked | None
    evaluation: Evaluation | None
    folds: tuple[FoldScore, ...]
    verdict: Verdict
    negatives: tuple[str, ...]

    @property
    def best_baseline(self) -> str | None:
        return self.evaluation.best_baseline if self.evaluation else None

    @property
    def oracle(self) -> Scores | None:
        return self.evaluation[ORACLE] if self.evaluation and ORACLE in self.evaluation else None


def assess(data: ReportData) -> Assessment:
    """Evaluate all folds together and say what came of it.

    Raises:
        Rejected: when a fold lacks the model's forecast, or `evaluate` refuses the numbers.
    """
    if not data.folds:
        nothing = Verdict(
            "none", "No forecasts to judge.", "This report shows only what was measured without them."
        )
        return Assessment(None, None, (), nothing, _study_negatives(data))
    stacked = stack(data)
    evaluation = evaluate(
        stacked.forecasts,
        stacked.realised,
        stacked.sigma,
        stacked.mask,
        reference=data.model,
        seed=data.seed,
        not_baselines=(ORACLE, *data.not_baselines),
        bars_per_year=data.bars_per_year,
        trials=data.run.configurations,
    )
    folds = tuple(_fold_score(fold, data, evaluation) for fold in data.folds if fold.mask.any())
    negatives = (*_split_negatives(data), *_model_negatives(data, evaluation, folds), *_study_negatives(data))
    return Assessment(stacked, evaluation, folds, _verdict(data, evaluation), negatives)


def stack(data: ReportData) -> Stacked:
    """Put the folds under each other. Only forecasts that every fold has are kept; cells nobody has are masked.

    Raises:
        Rejected: when a fold lacks the model's forecast.
    """
    for fold in data.folds:
        if data.model not in fold.forecasts:
            raise Rejected(
                f"fold {fold.label} has no forecast called {data.model}; it has {', '.join(fold.forecasts)}"
            )
    symbols = tuple(dict.fromkeys(symbol for fold in data.folds for symbol in fold.symbols))
    names = [name for name in data.folds[0].forecasts if all(name in fold.forecasts for fold in data.folds)]
    forecasts = {name: _under(data, symbols, [fold.forecasts[name] for fold in data.folds]) for name in names}
    known = [fold.oracle for fold in data.folds if fold.oracle is not None]
    if len(known) == len(data.folds):
        forecasts[ORACLE] = _under(data, symbols, known)
    sigma = _under(data, symbols, [fold.sigma for fold in data.folds])
    mask = _under(data, symbols, [fold.mask.astype(np.float64) for fold in data.folds]) > 0
    return Stacked(
        symbols=symbols,
        times=np.concatenate([fold.times for fold in data.folds]),
        forecasts=forecasts,
        realised=_under(data, symbols, [fold.realised for fold in data.folds]),
        sigma=np.where(mask, sigma, 1.0),
        mask=mask,
        fold=np.repeat(np.arange(len(data.folds)), [len(fold.times) for fold in data.folds]),
    )


def _under(data: ReportData, symbols: tuple[str, ...], parts: list[Floats]) -> Floats:
    rows = []
    for fold, part in zip(data.folds, parts, strict=True):
        wide = np.zeros((len(fold.times), len(symbols)))
        wide[:, [symbols.index(symbol) for symbol in fold.symbols]] = part
        rows.append(wide)
    return np.concatenate(rows)


def edge_matrix(fold: Fold) -> Mask | None:
    """Whether [follower, leader] is an edge of the fold's graph at any lag, in the fold's order of symbols."""
    if fold.graph is None:
        return None
    place = {symbol: index for index, symbol in enumerate(fold.symbols)}
    at = np.array([place.get(symbol, -1) for symbol in fold.graph.symbols], dtype=np.int64)
    follower, leader = at[fold.graph.follower], at[fold.graph.leader]
    kept = (follower >= 0) & (leader >= 0)
    found = np.zeros((len(fold.symbols),) * 2, dtype=np.bool_)
    found[follower[kept], leader[kept]] = True
    np.fill_diagonal(found, val=False)
    return found


def _fold_score(fold: Fold, data: ReportData, evaluation: Evaluation) -> FoldScore:
    series = ic_per_bar(fold.forecasts[data.model], fold.realised, fold.mask)
    best, edges = evaluation.best_baseline, edge_matrix(fold)
    other = ic_per_bar(fold.forecasts[best], fold.realised, fold.mask) if best else np.full(1, np.nan)
    return FoldScore(
        label=fold.label,
        bars=int(np.isfinite(series).sum()),
        ic=mean_estimate(series, seed=data.seed, resamples=400),
        baseline=float(np.nanmean(other)) if np.isfinite(other).any() else None,
        edges=None if edges is None else int(edges.sum()),
        f1=None if edges is None or fold.planted is None else edge_agreement(edges, fold.planted != 0).f1,
    )


def _verdict(data: ReportData, evaluation: Evaluation) -> Verdict:
    model, best = evaluation[data.model], evaluation.best_baseline
    gap = model.best_gap
    if gap is not None and gap.high < 0:
        tone: Tone = "beaten"
        headline = (
            f"The model is beaten: the baseline {best} forecasts better, by {say.size(gap.value)} IC"
            f" (95\u00a0% interval {say.size(gap.high)} to {say.size(gap.low)})."
        )
    elif model.accuracy is None:
        tone, headline = "none", "No evidence of skill: the model forecasts 0 everywhere."
    elif model.ic.low <= 0:
        tone = "none"
        headline = (
            f"No evidence of skill: the model's mean IC is {say.ic(model.ic.value)}, and its 95\u00a0%"
            f" interval, {say.ic(model.ic.low)} to {say.ic(model.ic.high)}, "
            + ("contains 0." if model.ic.high >= 0 else "lies below 0.")
        )
    elif gap is None:
        tone = "tie"
        headline = f"The model's mean IC is {say.interval(model.ic)}, and no baseline was run beside it."
    elif gap.low > 0:
        tone = "beats"
        headline = (
            f"The model beats the best baseline, {best}, by {say.size(gap.value)} IC (95\u00a0% interval"
            f" {say.size(gap.low)} to {say.size(gap.high)})."
        )
    else:
        tone = "tie"
        headline = (
            f"No edge found over the best baseline, {best}: the model's IC differs from that one's by"
            f" {say.ic(gap.value)}, and the 95\u00a0% interval, {say.ic(gap.low)} to {say.ic(gap.high)},"
            " contains 0."
        )
    return Verdict(tone, headline, _context(data, evaluation, tone))


def _context(data: ReportData, evaluation: Evaluation, tone: Tone) -> str:
    model = evaluation[data.model]
    parts = [] if tone == "none" else [f"Its mean IC is {say.ic(model.ic.value)}"]
    if ORACLE in evaluation and tone != "none" and evaluation[ORACLE].ic.value > 0:
        share = model.ic.value / evaluation[ORACLE].ic.value
        parts[0] += f", {say.percent(share)} of what a perfect forecaster of this simulated market reaches"
    even = model.portfolio.breakeven_bp
    if even is not None:
        parts.append(
            f"{'its' if parts else 'Its'} long-short portfolio "
            + (
                f"loses money above {say.number(even, 2)} bp of cost per unit traded"
                if even > 0
                else "loses money even free of cost"
            )
        )
    text = " and ".join(parts) + "." if parts else ""
    if ORACLE not in evaluation and model.ic.value > SUSPICIOUS:
        text += " So high an IC on real data is more often a leak than skill: look for one before believing it."
    return text.strip()


def _split_negatives(data: ReportData) -> list[str]:
    """Folds whose drawing of time itself shows a leak: fitting that touches or overlaps the test stretch."""
    found = []
    for fold in data.folds:
        tests = [span for span in fold.spans if span.kind == "test"]
        fits = [span for span in fold.spans if span.kind in {"train", "validation"}]
        if any(fit.start < test.end and test.start <= fit.end for fit in fits for test in tests):
            found.append(
                f"Fold {fold.label} has no purge before its test stretch: its forecasts may have seen the test."
            )
    return found


def _model_negatives(data: ReportData, evaluation: Evaluation, folds: tuple[FoldScore, ...]) -> list[str]:
    model = evaluation[data.model]
    found = []
    for other in evaluation.scores:
        gain = other.reference_gain
        if gain is None or other.name == ORACLE or other.name in data.not_baselines or gain.low > 0:
            continue
        how = "beats the model" if gain.high < 0 else "cannot be told apart from the model"
        found.append(
            f"Baseline {other.name} {how}: model minus {other.name} is {say.ic(gain.value)} IC, 95\u00a0%"
            f" interval {say.ic(gain.low)} to {say.ic(gain.high)}."
        )
    if model.r2.value <= 0:
        found.append(f"R² against zero is {say.percent(model.r2.value, 2)}: forecasting zero has no larger error.")
    slope = model.slope
    if slope and abs(slope.slope - 1) > 1.96 * slope.error:
        found.append(
            f"Miscalibrated: outcomes follow forecasts with slope {say.number(slope.slope)} ±"
            f" {say.number(1.96 * slope.error, 2)}, not 1; the forecasts are too"
            f" {'large' if slope.slope < 1 else 'small'}."
        )
    losing = [net for net in model.portfolio.net if net.mean_bp <= 0 and net.cost_bp > 0]
    if losing and model.portfolio.turnover:
        found.append(f"At {say.plain(losing[0].cost_bp)} bp per unit traded the long-short portfolio loses money.")
    low = [fold.label for fold in folds if fold.ic.low <= 0]
    if low:
        found.append(f"No evidence of skill in {say.plural(len(low), 'fold')} of {len(folds)}: {say.listed(low)}.")
    if evaluation.undefined:
        found.append(
            f"IC is undefined in {evaluation.undefined:,} of {evaluation.bars:,} bars; they are left out."
        )
    missing = sorted(
        {name for fold in data.folds for name in fold.forecasts} - {s.name for s in evaluation.scores}
    )
    if missing:
        found.append(f"Not compared, as some folds lack them: {say.listed(missing)}.")
    return found


def _study_negatives(data: ReportData) -> tuple[str, ...]:
    found = []
    for ablation in data.ablations:
        if ablation.low <= 0:
            how = "is better than the full model" if ablation.high < 0 else "makes no difference that can be seen"
            found.append(
                f"Ablation “{ablation.label}” {how}: full model minus this is {say.ic(ablation.difference)}"
                f" IC, 95\u00a0% interval {say.ic(ablation.low)} to {say.ic(ablation.high)}."
            )
    found += [f"Check failed, {check.name}: {check.text}" for check in data.checks if not check.passed]
    for target in data.targets:
        if not target.met:
            bound = "at least" if target.higher_is_better else "at most"
            found.append(
                f"Target missed, {target.name}: {say.number(target.reached)} where {bound}"
                f" {say.number(target.wanted)} was set."
            )
    for leak in data.null_leaks:
        if leak.honest and abs(leak.t) >= 2:
            found.append(
                f"“{leak.label}” finds IC {say.ic(leak.ic)} (t {say.number(leak.t)}) in a market without"
                " signal: it leaks."
            )
    seeds = len(data.seed_scores) or len(data.run.seeds)
    if data.folds and seeds < ENOUGH_SEEDS:
        some = f"Only {say.plural(seeds, 'training seed')} recorded" if seeds else "No training seed is recorded"
        found.append(f"{some}; at least {ENOUGH_SEEDS} are needed to tell luck from method.")
    if data.card.left_out:
        found.append(
            f"Symbols asked for and left out: {say.listed([item.symbol for item in data.card.left_out])}."
        )
    return tuple(found)
