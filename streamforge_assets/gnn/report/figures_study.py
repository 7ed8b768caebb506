"""Figures 12 to 16 and the split: regimes, training, speed, and what a leak would look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from streamforge_assets.gnn.report import wording as say
from streamforge_assets.gnn.report.assess import Assessment
from streamforge_assets.gnn.report.data import ReportData
from streamforge_assets.gnn.report.drawing import (
    BASELINE,
    CYCLE,
    DARK,
    GREY,
    LINES,
    MODEL,
    THIRD,
    Drawing,
    svg,
    tall,
    text,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPAN_COLORS = {
    "train": "#56B4E9",
    "purge": "#000000",
    "validation": "#E69F00",
    "test": "#009E73",
    "embargo": "#999999",
}


def split(data: ReportData, _found: Assessment) -> Drawing:
    """The split: what each stretch of time was used for, fold by fold."""
    title = "How time was divided"
    how = (
        "How to read: one row per fold; models are fitted in the training stretch, chosen in validation and"
        " judged in test; the black purge stretches are used for nothing, so that no window reaches across."
    )
    folds = [fold for fold in data.folds if fold.spans]
    if not folds:
        return Drawing(0, title, how, "Absent: the folds do not say how their time was divided.")
    start = min(span.start for fold in folds for span in fold.spans)
    end = max(span.end for fold in folds for span in fold.spans)
    day = 86_400_000_000
    least = (end - start) / day / 250

    def paint(axes: Axes) -> None:
        named: set[str] = set()
        for row, fold in enumerate(folds):
            for span in sorted(fold.spans, key=lambda span: span.kind == "purge"):
                width = max((span.end - span.start) / day, least)
                label = None if span.kind in named else span.kind
                named.add(span.kind)
                axes.barh(
                    row,
                    width,
                    left=(span.start - start) / day,
                    height=0.6,
                    color=SPAN_COLORS[span.kind],
                    label=label,
                )
        axes.set_yticks(range(len(folds)), [text(fold.label) for fold in folds])
        axes.invert_yaxis()
        axes.set_xlabel(f"days since {np.datetime64(start, 'us').astype('datetime64[m]')} UTC")
        axes.grid(visible=False, axis="y")
        axes.legend(ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0), columnspacing=0.8, handlelength=1.0)

    purges = [
        (span.end - span.start) / 3_600_000_000 for fold in folds for span in fold.spans if span.kind == "purge"
    ]
    apart = (
        f"the shortest purge is {say.number(min(purges))} h"
        if purges
        else "no purge is recorded between them: forecasts may have seen their test bars"
    )
    says = (
        f"{say.plural(len(folds), 'fold')} over {say.number((end - start) / day)} days; {apart}; purges are"
        " drawn at least a hair wide."
    )
    return Drawing(0, title, how, says, (svg(paint, says, (6.4, max(1.7, 1.0 + 0.26 * len(folds)))),))


def regimes(data: ReportData, _found: Assessment) -> Drawing:
    """Figure 12: share of the oracle's IC around a switch of the planted graph."""
    title = "After the market's structure changes"
    how = (
        "How to read: the planted graph changes at 0; a line is one policy of refitting and should come back"
        " to 1, the oracle's IC, soon."
    )
    rows = [row for row in data.regimes if len(row.ic_share)]
    if not rows:
        return Drawing(12, title, how, "Absent: no regime switch was studied for this report.")

    def paint(axes: Axes) -> None:
        for number, row in enumerate(rows):
            color, style = CYCLE[number % len(CYCLE)], LINES[number % len(LINES)]
            axes.plot(
                row.bars_since_switch,
                row.ic_share,
                marker="o",
                color=color,
                linestyle=style,
                label=text(row.label),
            )
        axes.axvline(0, color=DARK, linewidth=0.8)
        axes.axhline(1, color=DARK, linestyle="--", linewidth=0.8)
        axes.set(xlabel="bars since the switch", ylabel="share of the oracle's IC")
        axes.legend()

    order = sorted(rows, key=lambda row: -row.ic_share[-1])
    says = f"At the end {order[0].label} has {say.percent(order[0].ic_share[-1], 0)} of the oracle's IC"
    if len(order) > 1:
        says += f" and {order[-1].label}, the slowest, {say.percent(order[-1].ic_share[-1], 0)}"
    return Drawing(12, title, how, says + ".", (svg(paint, says),))


def training(data: ReportData, _found: Assessment) -> Drawing:
    """Figure 13: loss, learning rate and gradient norm by epoch."""
    title = "Training"
    how = (
        "How to read: first, loss by epoch, one colour a fold (solid: training, dashed: validation); a dashed"
        " line that climbs while the solid one falls is overfitting; then learning rate and norm of the"
        " gradient."
    )
    from matplotlib.ticker import MaxNLocator

    folds = [fold for fold in data.folds if any(len(curve) for curve in fold.history.values())]
    if not folds:
        return Drawing(13, title, how, "Absent: the folds carry no training history.")

    def panel(curves: Sequence[tuple[str, str]], label: str, *, log: bool) -> str | None:
        if not any(len(fold.history.get(name, ())) for fold in folds for name, _ in curves):
            return None

        def paint(axes: Axes) -> None:
            for number, fold in enumerate(folds):
                for name, style in curves:
                    values = np.asarray(fold.history.get(name, ()), dtype=np.float64)
                    if len(values):
                        at = thin(values)
                        first = text(fold.label) if name == curves[0][0] else None
                        axes.plot(at + 1, values[at], style, color=CYCLE[number % len(CYCLE)], label=first)
            if log:
                axes.set_yscale("log")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set(xlabel="epoch", ylabel=label)
            if len(folds) <= 6 and label == "loss":
                axes.legend(ncols=2 if len(folds) > 3 else 1)

        return svg(paint, f"{label} by epoch", THIRD)

    made = (
        panel((("loss", "-"), ("validation_loss", "--")), "loss", log=False),
        panel((("lr", "-"),), "learning rate", log=False),
        panel((("grad_norm", "-"),), "gradient norm", log=True),
    )
    ends = [
        (fold.label, np.asarray(fold.history["validation_loss"]))
        for fold in folds
        if len(fold.history.get("validation_loss", ()))
    ]
    if ends:
        rising = [
            label
            for label, values in ends
            if values[-1] > values.min() + 0.05 * (values.max() - values.min() + 1e-300)
        ]
        says = (
            "Validation loss was least at epoch"
            f" {say.listed([str(int(values.argmin()) + 1) for _, values in ends])} of"
            f" {say.listed([str(len(values)) for _, values in ends])}; "
            + (
                f"it ends clearly above its least in {say.listed(rising)}, so stopping early mattered."
                if rising
                else "it never turned up: no overfitting to be seen."
            )
        )
    else:
        says = (
            f"{say.plural(len(folds), 'fold')} with a history; no validation loss was recorded, so overfitting"
            " cannot be judged here."
        )
    return Drawing(13, title, how, says, tuple(picture for picture in made if picture))


def throughput(data: ReportData, _found: Assessment) -> Drawing:
    """Figure 14: training windows per second against number of assets."""
    title = "Speed of training"
    how = (
        "How to read: windows per second (higher is faster) against the number of assets, both scales"
        " logarithmic; one line per way of making batches."
    )
    rows = [row for row in data.throughput if len(row.n)]
    if not rows:
        return Drawing(14, title, how, "Absent: throughput was not measured for this report.")
    most = max(max(row.n) for row in rows)
    at = {row.style: row.windows_per_second[list(row.n).index(most)] for row in rows if most in list(row.n)}
    fast, slow = max(at, key=lambda style: at[style]), min(at, key=lambda style: at[style])
    says = f"At {most} assets {fast} is the fastest with {say.number(at[fast])} windows a second"
    if fast != slow:
        says += f", {say.number(at[fast] / at[slow])} times the slowest, {slow}"
    series = [(row.style, row.n, row.windows_per_second) for row in rows]
    return Drawing(14, title, how, says + ".", (_loglog(series, "windows per second", says),))


def build_time(data: ReportData, _found: Assessment) -> Drawing:
    """Figure 15: seconds to build a graph against number of assets."""
    title = "Time to build a graph"
    how = (
        "How to read: CPU seconds (lower is faster) against the number of assets, both scales logarithmic; a"
        " slope of 2 means four times the time for twice the assets."
    )
    rows = [row for row in data.build_times if len(row.n)]
    if not rows:
        return Drawing(15, title, how, "Absent: building was not timed for this report.")
    slopes = []
    for row in rows:
        if len(row.n) > 1 and min(row.seconds) > 0:
            slope = np.polyfit(np.log(np.asarray(row.n, float)), np.log(np.asarray(row.seconds, float)), 1)[0]
            slopes.append(f"{row.method} grows like N to the power {say.number(float(slope), 2)}")
    most = max(max(row.n) for row in rows)
    largest = [
        f"{row.method} takes {say.duration(row.seconds[list(row.n).index(most)])}"
        for row in rows
        if most in list(row.n)
    ]
    says = f"At {most} assets {say.listed(largest)}" + (f"; {say.listed(slopes)}" if slopes else "") + "."
    series = [(row.method, row.n, row.seconds) for row in rows]
    return Drawing(15, title, how, says, (_loglog(series, "CPU seconds", says),))


def _loglog(series: Sequence[tuple[str, Sequence[int], Sequence[float]]], label: str, alt: str) -> str:
    from matplotlib.ticker import NullLocator

    ticks = sorted({n for _, counts, _ in series for n in counts})

    def paint(axes: Axes) -> None:
        for number, (name, counts, values) in enumerate(series):
            color, style = CYCLE[number % len(CYCLE)], LINES[number % len(LINES)]
            axes.plot(counts, values, marker="o", color=color, linestyle=style, label=text(name))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set(xlabel="assets", ylabel=label)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=1)

    return svg(paint, alt, (4.4, 3.0 + 0.16 * len(series)))


def null_leak(data: ReportData, _found: Assessment) -> Drawing:
    """Figure 16: IC on a market without signal, of honest and of leaky pipelines."""
    title = "A market without signal: what a leak fabricates"
    how = (
        "How to read: there is nothing to forecast in this simulated market, so an honest pipeline's interval"
        " (blue) must contain 0; the orange ones cheat on purpose; grey is the IC of the best models"
        " published on real data."
    )
    if not data.null_leaks:
        return Drawing(16, title, how, "Absent: the null market was not run for this report.")
    rows = data.null_leaks

    def paint(axes: Axes) -> None:
        y = np.arange(len(rows))
        for at, row in zip(y, rows, strict=True):
            color = MODEL if row.honest else BASELINE
            spread = np.maximum([[row.ic - row.low], [row.high - row.ic]], 0)
            axes.errorbar([row.ic], [at], xerr=spread, fmt="o" if row.honest else "s", color=color, capsize=3)
        axes.axvline(0, color=DARK, linewidth=0.8)
        axes.axvspan(0.04, 0.055, color=GREY, alpha=0.3, linewidth=0)
        axes.set_yticks(y, [text(row.label) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("mean IC")
        axes.grid(visible=False, axis="y")

    honest = [row for row in rows if row.honest]
    failed = [row.label for row in honest if abs(row.t) >= 2]
    worst = max((row for row in rows if not row.honest), key=lambda row: row.ic, default=None)
    says = (
        f"The honest pipeline fails here: {say.listed(failed)} finds skill where there is none"
        if failed
        else "The honest pipeline finds nothing, as it must"
        if honest
        else "No honest pipeline was run beside the leaky ones, so this clears nobody"
    )
    if worst:
        says += f"; “{worst.label}” fabricates IC {say.ic(worst.ic)} (t {say.number(worst.t)}) from noise"
    return Drawing(16, title, how, says + ".", (svg(paint, says, tall([*(row.label for row in rows), ""])),))
