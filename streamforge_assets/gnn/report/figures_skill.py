"""Figures 3, 4, 5 and 8: how much skill there is, where in time, and how fast it fades."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamforge_assets.gnn.bootstrap import Estimate, mean_estimate
from streamforge_assets.gnn.evaluation import ic_per_bar
from streamforge_assets.gnn.report import wording as say
from streamforge_assets.gnn.report.assess import ORACLE, Assessment
from streamforge_assets.gnn.report.data import Floats, Fold, Mask, ReportData
from streamforge_assets.gnn.report.drawing import (
    BASELINE,
    CYCLE,
    DARK,
    GREY,
    LINES,
    MODEL,
    Drawing,
    svg,
    tall,
    text,
    thin,
    whiskers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_FORECASTS = "Absent: the report was given no forecasts."
DELAYS, HORIZONS = tuple(range(9)), (1, 2, 3, 4, 6, 8, 12)
DAY = 86_400_000_000


def oracle_share(data: ReportData, found: Assessment) -> Drawing:
    """Figure 3: every forecast as a share of the oracle's IC and R², or on its own scale where none is known."""
    scale = found.oracle
    title = "Skill of the model and of every baseline"
    how = (
        "How to read: a bar is a share of what a perfect forecaster of this simulated market reaches (1,"
        " dashed); whiskers are the forecast's own 95\u00a0% block-bootstrap interval."
        if scale
        else "How to read: a bar is mean IC, or R² against zero; whiskers are 95\u00a0% block-bootstrap intervals;"
        " nobody knows the best that is possible here."
    )
    if found.evaluation is None:
        return Drawing(3, title, how, NO_FORECASTS)
    rows = [row for row in found.evaluation.scores if row.name != ORACLE]
    unit = (scale.ic.value, scale.r2.value) if scale and min(scale.ic.value, scale.r2.value) > 0 else (1.0, 1.0)
    labels = [row.name for row in rows]
    colors = [MODEL if row.name == data.model else GREY for row in rows]

    def panel(values: list[Estimate], by: float, name: str, floor: float) -> str:
        kept = [np.array([getattr(value, key) / by for value in values]) for key in ("value", "low", "high")]
        clipped = [np.maximum(array, floor) for array in kept]

        def paint(axes: Axes) -> None:
            whiskers(axes, labels, clipped[0], clipped[1], clipped[2], colors)
            axes.set_title(name + (", share of the oracle's" if scale else ""))
            if scale:
                axes.axvline(1, color=DARK, linestyle="--", linewidth=0.9)
            for row, value in enumerate(kept[0]):
                if value < floor:
                    axes.text(
                        floor, row, f" {say.number(float(value), 2)}, off the scale", va="center", fontsize=8
                    )

        return svg(paint, f"{name} of {say.listed(labels)}", tall(labels))

    top = max(row.r2.high for row in rows) / unit[1]
    pictures = (
        panel([row.ic for row in rows], unit[0], "Mean IC", -np.inf),
        panel([row.r2 for row in rows], unit[1], "R² against zero", -max(0.5 * top, 0.5 if scale else 0.03)),
    )
    model = found.evaluation[data.model]
    says = f"Mean IC of {data.model}: {say.interval(model.ic)}; {say.evidence(model.ic, 'skill')}"
    if scale:
        says += (
            f"; {say.percent(model.ic.value / unit[0])} of the oracle's IC and"
            f" {say.percent(model.r2.value / unit[1])} of its R²"
        )
    return Drawing(3, title, how, says + ".", pictures)


def cumulative_gain(data: ReportData, found: Assessment) -> Drawing:
    """Figure 4: cumulative IC, model minus best baseline, each fold from 0."""
    title = "Where in time the model gains on the best baseline"
    how = (
        "How to read: each line is one fold and climbs while the model's IC is above the baseline's; a line"
        " that stays within the grey funnel drifts no more than luck would (95\u00a0% at any one time)."
    )
    best = found.best_baseline
    if found.stacked is None or best is None:
        return Drawing(4, title, how, NO_FORECASTS if found.stacked is None else "Absent: no baseline was run.")
    lines = []
    for fold in data.folds:
        gain = ic_per_bar(fold.forecasts[data.model], fold.realised, fold.mask) - ic_per_bar(
            fold.forecasts[best], fold.realised, fold.mask
        )
        kept = np.isfinite(gain)
        lines.append((fold, (fold.times[kept] - fold.times[0]) / DAY if kept.any() else np.zeros(0), gain[kept]))
    every = np.concatenate([gain for _, _, gain in lines])
    longest = max((line for line in lines), key=lambda line: len(line[2]))
    if not len(every):
        return Drawing(4, title, how, "Absent: no bar has a defined IC.")
    noise = mean_estimate(every, seed=data.seed, resamples=400).error * np.sqrt(len(every))

    def paint(axes: Axes) -> None:
        at = thin(longest[2])
        funnel = 1.96 * noise * np.sqrt(at + 1.0)
        axes.fill_between(longest[1][at], -funnel, funnel, color=GREY, alpha=0.25, linewidth=0)
        for number, (fold, days, gain) in enumerate(lines):
            kept = thin(gain)
            axes.plot(
                days[kept],
                np.cumsum(gain)[kept],
                color=CYCLE[number % len(CYCLE)],
                linestyle=LINES[number // len(CYCLE) % len(LINES)],
                label=text(fold.label),
            )
        axes.axhline(0, color=DARK, linewidth=0.8)
        axes.set(xlabel="days since the fold began", ylabel=f"Σ (IC {text(data.model)} {say.MINUS} {text(best)})")
        if len(lines) <= 8:
            axes.legend(ncols=2 if len(lines) > 4 else 1)

    ahead = sum(float(gain.sum()) > 0 for _, _, gain in lines)
    gap = found.evaluation[data.model].best_gap if found.evaluation else None
    says = f"The model ends ahead of {best} in {ahead} of {say.plural(len(lines), 'fold')}"
    if gap:
        says += f"; the gain per bar is {say.interval(gap)}; {say.evidence(gap, 'an edge over it')}"
    return Drawing(4, title, how, says + ".", (svg(paint, says, (5.6, 3.1)),))


def ic_over_time(data: ReportData, found: Assessment) -> Drawing:
    """Figure 5: distribution of IC per bar, and its rolling mean."""
    title = "IC bar by bar"
    how = (
        "How to read: first, how IC spreads over single bars (dashed: the mean); second, its mean in a moving"
        " window with a 95\u00a0% band; trust a level, not a single bar."
    )
    if found.stacked is None:
        return Drawing(5, title, how, NO_FORECASTS)
    series = ic_per_bar(found.stacked.forecasts[data.model], found.stacked.realised, found.stacked.mask)
    kept = np.isfinite(series)
    if kept.sum() < 20:
        return Drawing(5, title, how, f"Absent: only {kept.sum()} bars have a defined IC.")
    ics, bars = series[kept], np.flatnonzero(kept)
    whole = mean_estimate(ics, seed=data.seed, resamples=400)
    inflation = whole.error * np.sqrt(len(ics)) / max(float(ics.std()), 1e-300)
    width = int(np.clip(len(ics) // 15, 10, 2016))
    total = np.concatenate([[0.0], np.cumsum(ics)])
    squares = np.concatenate([[0.0], np.cumsum(ics**2)])
    mean = (total[width:] - total[:-width]) / width
    variance = np.maximum((squares[width:] - squares[:-width]) / width - mean**2, 0)
    half = 1.96 * inflation * np.sqrt(variance / width)

    def histogram(axes: Axes) -> None:
        axes.hist(ics, bins=31, color=MODEL, alpha=0.8)
        axes.axvline(0, color=DARK, linewidth=0.8)
        axes.axvline(whole.value, color=BASELINE, linestyle="--", label=f"mean {say.ic(whole.value)}")
        axes.set(xlabel="IC of a bar", ylabel="bars")
        axes.legend()

    def rolling(axes: Axes) -> None:
        at = thin(mean)
        x = bars[width - 1 :][at]
        axes.fill_between(x, (mean - half)[at], (mean + half)[at], color=MODEL, alpha=0.2, linewidth=0)
        axes.plot(x, mean[at], color=MODEL)
        axes.axhline(0, color=DARK, linewidth=0.8)
        for edge in np.flatnonzero(np.diff(found.stacked.fold if found.stacked else np.zeros(1))):
            axes.axvline(float(edge + 1), color=GREY, linestyle=":", linewidth=0.8)
        axes.set(xlabel="bar (dotted: a new fold)", ylabel=f"mean IC of {width} bars")

    clear = float((mean - half > 0).mean())
    says = (
        f"{say.percent(float((ics > 0).mean()), 0)} of bars have a positive IC, and the band of {width} bars"
        f" lies above 0 in {say.percent(clear, 0)} of windows; over all bars the mean is"
        f" {say.interval(whole)}."
    )
    return Drawing(5, title, how, says, (svg(histogram, "Histogram of IC"), svg(rolling, "Rolling mean of IC")))


def decay(data: ReportData, found: Assessment) -> Drawing:
    """Figure 8: IC with the return of one bar ever later, and with the return over ever longer horizons."""
    title = "How fast the forecast goes stale"
    how = (
        "How to read: first, IC with the return of the single bar that begins so many bars after the forecast"
        " was made (1 is a one-bar delay of execution); second, with the return of all bars up to a horizon."
    )
    if found.stacked is None:
        return Drawing(8, title, how, NO_FORECASTS)
    best = found.best_baseline
    names = [data.model, *([best] if best else [])]
    late = {name: [_pooled(data, name, delay, 1) for delay in DELAYS] for name in names}
    long = {name: [_pooled(data, name, 0, horizon) for horizon in HORIZONS] for name in names}

    def panel(values: dict[str, list[Estimate]], x: tuple[int, ...], label: str) -> str:
        def paint(axes: Axes) -> None:
            for number, name in enumerate(names):
                rows = values[name]
                centre = np.array([row.value for row in rows])
                spread = np.abs(np.array([[row.low, row.high] for row in rows]).T - centre)
                axes.errorbar(
                    np.array(x) + 0.08 * number,
                    centre,
                    yerr=spread,
                    marker="os"[number],
                    linestyle=LINES[number],
                    color=(MODEL, BASELINE)[number],
                    capsize=2,
                    label=text(name),
                )
            axes.axhline(0, color=DARK, linewidth=0.8)
            axes.set(xlabel=label, ylabel="mean IC", xticks=x)
            axes.legend()

        return svg(paint, f"IC by {label}")

    now, then = late[data.model][0], late[data.model][1]
    if now.low > 0:
        says = (
            f"One bar of delay leaves {say.percent(then.value / now.value, 0)} of the IC ({say.ic(then.value)}"
            f" of {say.ic(now.value)}); {say.evidence(then, 'skill after a delay')}."
        )
    else:
        says = f"Without delay IC is {say.interval(now)}: there is nothing whose fading could be measured."
    pictures = (
        panel(late, DELAYS, "delay, bars"),
        panel(long, HORIZONS, "horizon, bars"),
    )
    return Drawing(8, title, how, says, pictures)


def _pooled(data: ReportData, name: str, delay: int, horizon: int) -> Estimate:
    """Mean IC of the forecast with Σ realised[t + delay .. t + delay + horizon - 1], over all folds."""
    rows = [_later(fold, fold.forecasts[name], delay, horizon) for fold in data.folds]
    series = np.concatenate([ic_per_bar(*row) for row in rows])
    return mean_estimate(series, seed=data.seed, resamples=300)


def _later(fold: Fold, forecast: Floats, delay: int, horizon: int) -> tuple[Floats, Floats, Mask]:
    """Forecast, later return and mask of a fold's bars whose later bars are all there, without a gap."""
    rows = len(fold.times) - delay - horizon + 1
    if rows < 1:
        empty = np.zeros((0, len(fold.symbols)))
        return empty, empty, empty > 0
    step = int(np.diff(fold.times).min()) if len(fold.times) > 1 else 0
    last = delay + horizon - 1
    whole = fold.times[last : last + rows] - fold.times[:rows] == last * step
    kept, total = fold.mask[:rows].copy() & whole[:, None], np.zeros((rows, len(fold.symbols)))
    for shift in range(delay, delay + horizon):
        kept &= fold.mask[shift : shift + rows]
        total += np.where(fold.mask, fold.realised, 0.0)[shift : shift + rows]
    return forecast[:rows], total, kept
