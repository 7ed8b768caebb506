"""Figures 6, 7, 9 and 10: whether sizes can be trusted, what trading would bring, and which part does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamforge_assets.gnn.report import wording as say
from streamforge_assets.gnn.report.assess import ORACLE, Assessment
from streamforge_assets.gnn.report.data import ReportData
from streamforge_assets.gnn.report.drawing import (
    BASELINE,
    DARK,
    GREY,
    MODEL,
    THIRD,
    TRUTH,
    Drawing,
    svg,
    tall,
    text,
    whiskers,
)
from streamforge_assets.gnn.report.figures_skill import NO_FORECASTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def calibration(data: ReportData, found: Assessment) -> Drawing:
    """Figure 6: mean outcome against mean forecast by decile."""
    title = "Calibration: do outcomes have the size that was forecast?"
    how = (
        "How to read: each point is a tenth of all forecasts, in units of sigma, with a 95\u00a0% interval;"
        " on the dashed line outcomes are as large as forecast."
    )
    if found.evaluation is None:
        return Drawing(6, title, how, NO_FORECASTS)
    model = found.evaluation[data.model]
    line = model.slope
    if line is None or len(model.calibration) < 2:
        return Drawing(6, title, how, "Absent: the forecast is constant, so there are no deciles to compare.")
    x = np.array([group.forecast for group in model.calibration])
    y = np.array([group.outcome for group in model.calibration])
    error = np.array([1.96 * group.error for group in model.calibration])

    def paint(axes: Axes) -> None:
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, ends, "--", color=DARK, label="perfect")
        axes.plot(
            ends, line.intercept + line.slope * ends, color=BASELINE, label=f"slope {say.number(line.slope)}"
        )
        axes.errorbar(x, y, yerr=error, fmt="o", color=MODEL, capsize=2, label="deciles")
        axes.axhline(0, color=DARK, linewidth=0.6)
        axes.set(xlabel="forecast / sigma", ylabel="outcome / sigma")
        axes.legend()

    half = 1.96 * line.error
    fits = abs(line.slope - 1) <= half
    if fits and line.slope - half <= 0:
        end = "the interval contains 1 and 0: calibrated sizes and no skill at all fit these data alike"
    elif fits:
        end = "the interval contains 1: nothing speaks against the sizes"
    elif abs(line.slope) <= half:
        end = "the interval contains 0 and not 1: outcomes do not follow the forecasts"
    elif line.slope + half < 0:
        end = "the slope is negative: the forecasts point the wrong way"
    else:
        end = f"1 lies outside: the forecasts are too {'large' if line.slope < 1 else 'small'}"
    says = (
        f"The Mincer-Zarnowitz slope is {say.number(line.slope)} (95\u00a0% interval"
        f" {say.number(line.slope - half)} to {say.number(line.slope + half)}); {end}."
    )
    return Drawing(6, title, how, says, (svg(paint, says),))


def accuracy(data: ReportData, found: Assessment) -> Drawing:
    """Figure 7: share of right signs by size of forecast."""
    title = "Are bolder forecasts right more often?"
    how = (
        "How to read: forecasts sorted into tenths by size, from timid to bold; height is the share whose"
        " sign was right, with a 95\u00a0% interval; a coin reaches 50\u00a0% (dashed)."
    )
    if found.evaluation is None:
        return Drawing(7, title, how, NO_FORECASTS)
    model = found.evaluation[data.model]
    if model.accuracy is None or not model.accuracy_by_size:
        return Drawing(7, title, how, "Absent: the forecast is 0 everywhere, so it never takes a side.")
    y = np.array([100 * group.outcome for group in model.accuracy_by_size])
    error = np.array([196 * group.error for group in model.accuracy_by_size])

    def paint(axes: Axes) -> None:
        x = np.arange(1, len(y) + 1)
        axes.axhline(50, color=DARK, linestyle="--", linewidth=0.9)
        axes.errorbar(x, y, yerr=error, fmt="o-", color=MODEL, capsize=2)
        axes.set(xlabel="decile of |forecast / sigma|", ylabel="right signs, %", xticks=x)

    whole = model.accuracy
    beyond = (
        "more than a coin"
        if whole.low > 0.5
        else "fewer than a coin"
        if whole.high < 0.5
        else "no better than a coin"
    )
    bold = model.accuracy_by_size[-1]
    says = (
        f"Over all, {say.percent(whole.value)} of signs are right (95\u00a0% interval {say.percent(whole.low)}"
        f" to {say.percent(whole.high)}), {beyond}; in the boldest group {say.percent(bold.outcome)} ±"
        f" {say.percent(1.96 * bold.error)}."
    )
    return Drawing(7, title, how, says, (svg(paint, says),))


def costs(data: ReportData, found: Assessment) -> Drawing:
    """Figure 9: Sharpe ratio and net return against costs, with and without a delay, and turnover."""
    title = "What is left after costs"
    how = (
        "How to read: first, mean return per bar of a long-short portfolio against the cost of a unit traded,"
        " in basis points (dashed: one bar late); second, its yearly Sharpe ratio; third, how much of it is"
        " traded each bar. A deflated Sharpe ratio is the probability that the true ratio beats the luckiest"
        " of as many skill-less trials."
    )
    if found.evaluation is None:
        return Drawing(9, title, how, NO_FORECASTS)
    best = found.best_baseline
    names = [data.model, *([best] if best else []), *([ORACLE] if found.oracle else [])]
    colors = {data.model: MODEL, best or "": BASELINE, ORACLE: TRUTH}
    rows = {name: found.evaluation[name].portfolio for name in names}
    model = rows[data.model]
    if not any(row.turnover for row in rows.values()):
        return Drawing(
            9, title, how, "Absent: no forecast ever prefers one asset to another, so nothing is traded."
        )

    def lines(axes: Axes, value: str, label: str) -> None:
        for name in names:
            for net, style in ((rows[name].net, "-"), (rows[name].delayed, "--")):
                axes.plot(
                    [point.cost_bp for point in net],
                    [getattr(point, value) for point in net],
                    style,
                    marker="o" if style == "-" else None,
                    color=colors[name],
                    label=text(name) if style == "-" else None,
                )
        axes.axhline(0, color=DARK, linewidth=0.8)
        axes.set(xlabel="cost per unit traded, bp", ylabel=label)
        axes.legend()

    def turnover(axes: Axes) -> None:
        values = np.array([rows[name].turnover for name in names])
        axes.barh(range(len(names)), values, color=[colors[name] for name in names], height=0.6)
        axes.set_yticks(range(len(names)), [text(name) for name in names])
        axes.invert_yaxis()
        axes.set(xlabel="turnover per bar, of 2 at most", xlim=(0, 2))

    even = model.breakeven_bp
    first, late = model.net[0], model.delayed[0]
    says = (
        "The model never trades"
        if even is None
        else f"Trading {say.number(model.turnover)} units a bar, the model "
        + (f"breaks even at {say.number(even)} bp" if even > 0 else "loses money even without costs")
        + f"; before costs its Sharpe ratio is {say.number(first.sharpe)}, one bar late {say.number(late.sharpe)}"
        f", its deflated Sharpe ratio, given {say.plural(found.evaluation.trials, 'trial')}, is"
        f" {say.probability(first.deflated)} free of costs and {say.probability(model.net[-1].deflated)} at"
        f" {say.plain(model.net[-1].cost_bp)} bp"
    )
    pictures = (
        svg(lambda axes: lines(axes, "mean_bp", "net return, bp per bar"), "Net return by cost", THIRD),
        svg(lambda axes: lines(axes, "sharpe", "Sharpe ratio, yearly"), "Sharpe ratio by cost", THIRD),
        svg(turnover, "Turnover", THIRD),
    )
    return Drawing(9, title, how, says + "; no spread, impact or funding is counted.", pictures)


def ablations(data: ReportData, _found: Assessment) -> Drawing:
    """Figure 10: what each change to the model costs."""
    title = "Which parts do the work"
    how = (
        "How to read: a bar is the change of mean IC when one thing is changed, with a 95\u00a0% interval; to"
        " the left, the model got worse, so the part mattered."
    )
    if not data.ablations:
        return Drawing(10, title, how, "Absent: no ablations were run.")
    rows = sorted(data.ablations, key=lambda row: -row.difference)
    needed = [row.label for row in rows if row.low > 0]
    idle = [row.label for row in rows if row.low <= 0]

    def paint(axes: Axes) -> None:
        change = np.array([-row.difference for row in rows])
        low, high = np.array([-row.high for row in rows]), np.array([-row.low for row in rows])
        colors = [MODEL if row.low > 0 else GREY for row in rows]
        whiskers(axes, [row.label for row in rows], change, low, high, colors)
        axes.set_xlabel("change of mean IC")

    says = f"Needed, by these numbers: {say.listed(needed)}; no difference to be seen: {say.listed(idle)}."
    return Drawing(10, title, how, says, (svg(paint, says, tall([row.label for row in rows])),))
