"""Figures 1, 2 and 11: the graph, how well it is found where the truth is known, and whether it lasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from streamforge_assets.gnn.report import wording as say
from streamforge_assets.gnn.report.assess import Assessment, edge_matrix
from streamforge_assets.gnn.report.data import Floats, Fold, Mask, RecoveryCurve, ReportData
from streamforge_assets.gnn.report.drawing import (
    CYCLE,
    DARK,
    GREY,
    LINES,
    MODEL,
    THIRD,
    Drawing,
    svg,
    text,
)
from streamforge_assets.graphs.agreement import edge_agreement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 24
"""Symbols up to which a heatmap names them."""
MARKED = 60
"""Symbols up to which it marks single errors."""
SHUFFLES = 200


def adjacency(data: ReportData, _found: Assessment) -> Drawing:
    """Figure 1: planted beside recovered edges of the last fold that has a graph."""
    title = "Who leads whom"
    how = (
        "How to read: a cell is an edge from the leader (column) to the follower (row); blue pulls along, red"
        " pushes against."
    )
    known = [fold for fold in data.folds if fold.graph is not None]
    found = edge_matrix(known[-1]) if known else None
    if found is None:
        return Drawing(1, title, how, "Absent: no fold carries a graph.")
    if len(found) < 2:
        return Drawing(1, title, how, "Absent: a single asset has nobody to lead or to follow.")
    fold, name = known[-1], f"fold {known[-1].label}"
    planted = None if fold.planted is None else (fold.planted != 0) & ~np.eye(len(found), dtype=np.bool_)
    made = say.plural(int(found.sum()), "directed edge")
    pictures = [_heatmap(fold, _weights(fold), "recovered", planted, found)]
    if planted is None:
        says = f"The graph of {name} has {made} between {len(found)} assets; nobody knows the true one."
    else:
        how += " Crosses are edges that do not exist, circles are edges that were missed."
        if fold.planted is not None and fold.planted.dtype == np.bool_:
            how += " Planted edges are grey: their signs are not recorded."
        pictures.insert(0, _heatmap(fold, np.asarray(fold.planted), "planted", None, found))
        agreed = edge_agreement(found, planted)
        says = (
            f"In {name}, {made} found where {int(planted.sum())} were planted: precision"
            f" {say.percent(agreed.precision)}, recall {say.percent(agreed.recall)}, F1 {say.number(agreed.f1)}."
        )
    if not found.any():
        says += " The graph is empty: no asset leads another beyond what chance explains."
    return Drawing(1, title, how, says, tuple(pictures))


def _weights(fold: Fold) -> Floats:
    """Slopes [follower, leader] summed over lags, in the fold's order of symbols, own lags left out."""
    graph, place = fold.graph, {symbol: index for index, symbol in enumerate(fold.symbols)}
    made = np.zeros((len(fold.symbols),) * 2)
    if graph is not None:
        at = np.array([place.get(symbol, -1) for symbol in graph.symbols], dtype=np.int64)
        follower, leader = at[graph.follower], at[graph.leader]
        kept = (follower >= 0) & (leader >= 0) & (follower != leader)
        np.add.at(made, (follower[kept], leader[kept]), graph.weight[kept])
    return made


def _heatmap(fold: Fold, values: Floats | Mask, title: str, planted: Mask | None, found: Mask) -> str:
    """Weights as coloured cells; with `planted`, what was invented and what was missed is marked."""
    n, signed = len(values), values.dtype != np.bool_
    weights = np.where(np.eye(n, dtype=np.bool_), 0.0, values.astype(np.float64))
    strong = np.abs(weights[weights != 0])
    limit = float(np.quantile(strong, 0.95)) if len(strong) else 1.0
    shade = np.sign(weights) * np.clip(np.abs(weights) / limit, 0.25, 1)

    def paint(axes: Axes) -> None:
        top = 1.2 if signed else 2.0
        axes.imshow(
            shade,
            cmap="RdBu" if signed else "Greys",
            vmin=-top if signed else 0,
            vmax=top,
            interpolation="nearest",
            aspect="equal",
        )
        axes.grid(visible=False)
        axes.set(xlabel="leader", ylabel="follower", title=title)
        if n <= NAMED:
            names = [text(symbol.removesuffix("USDT")) for symbol in fold.symbols]
            axes.set_xticks(range(n), names, rotation=90, fontsize=7)
            axes.set_yticks(range(n), names, fontsize=7)
        if planted is not None and n <= MARKED:
            for mark, cells, face in (("x", found & ~planted, DARK), ("o", planted & ~found, "none")):
                rows, columns = np.nonzero(cells)
                edge = None if mark == "x" else DARK
                axes.scatter(columns, rows, s=(60 / max(n, 8)) ** 2, marker=mark, c=face, edgecolors=edge)

    return svg(paint, f"{title} edges, fold {fold.label}", (4.2, 3.9))


def recovery(data: ReportData, _found: Assessment) -> Drawing:
    """Figure 2: precision against recall, and F1 against signal and against bars."""
    title = "How well planted edges are found"
    how = (
        "How to read: first, precision at each recall as the threshold falls (top right is perfect); then F1"
        " as the signal or the sample grows; 1 is every edge found and none invented."
    )
    pictures, says = [], []
    if data.precision_recall:
        pictures.append(svg(lambda axes: _precision_recall(axes, data), "Precision against recall", THIRD))
        best = max(data.precision_recall, key=lambda row: row.average)
        says.append(f"the best ranking is that of {best.label} with average precision {say.number(best.average)}")
    for curves, label, factor, least in (
        (data.recovery_by_signal, "signal R², %", 100.0, "at the weakest signal, R² {} %,"),
        (data.recovery_by_bars, "bars", 1.0, "with the fewest bars, {},"),
    ):
        drawn = [curve for curve in curves if len(curve.x)]
        if drawn:
            pictures.append(svg(_f1(drawn, label, factor), f"F1 by {label}", THIRD))
            start = min(curve.x[0] for curve in drawn)
            top = max((curve for curve in drawn if curve.x[0] == start), key=lambda curve: curve.f1[0])
            says.append(
                f"{least.format(say.plain(factor * start))} the best F1 is {say.number(top.f1[0])}, by {top.label}"
            )
    if not pictures:
        return Drawing(2, title, how, "Absent: recovery of planted edges was not studied for this report.")
    joined = "; ".join(says)
    return Drawing(2, title, how, joined[0].upper() + joined[1:] + ".", tuple(pictures))


def _precision_recall(axes: Axes, data: ReportData) -> None:
    for number, row in enumerate(data.precision_recall):
        axes.step(
            row.recall,
            row.precision,
            where="post",
            label=f"{text(row.label)} ({say.number(row.average)})",
            color=CYCLE[number % len(CYCLE)],
            linestyle=LINES[number % len(LINES)],
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05))
    axes.legend(loc="lower left")


def _f1(curves: Sequence[RecoveryCurve], label: str, factor: float) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for number, curve in enumerate(curves):
            color, style = CYCLE[number % len(CYCLE)], LINES[number % len(LINES)]
            x = factor * np.asarray(curve.x)
            axes.plot(x, curve.f1, marker="o", color=color, linestyle=style, label=text(curve.label))
        axes.set_xscale("log")
        _plain_ticks(axes, factor * np.unique(np.concatenate([np.asarray(curve.x, float) for curve in curves])))
        axes.set(xlabel=label, ylabel="F1", ylim=(0, 1.05))
        axes.legend()

    return paint


def _plain_ticks(axes: Axes, values: Floats) -> None:
    """On a logarithmic axis, name the measured values themselves; powers of ten say little here."""
    from matplotlib.ticker import NullLocator

    kept = values if len(values) <= 7 else values[:: len(values) // 6]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(kept, [say.plain(round(float(value), 6)) for value in kept])


def stability(data: ReportData, _found: Assessment) -> Drawing:
    """Figure 11: overlap of neighbouring folds' graphs, against graphs whose assets were renamed at random."""
    title = "Does the graph last from fold to fold?"
    how = (
        "How to read: a point is the share of edges that a fold and the one before have in common (Jaccard);"
        " the grey bars are what chance gives when the assets are renamed at random (95\u00a0% of renamings)."
    )
    known = [fold for fold in data.folds if fold.graph is not None]
    if len(known) < 2:
        return Drawing(11, title, how, "Absent: fewer than two folds carry a graph.")
    rng = np.random.default_rng(data.seed)
    pairs = [_overlap(before, after, rng) for before, after in pairwise(known)]
    labels = [fold.label for fold in known[1:]]
    kept = [(label, *pair) for label, pair in zip(labels, pairs, strict=True) if pair is not None]
    if not kept:
        return Drawing(
            11, title, how, "Absent: neighbouring graphs are both empty, or share fewer than three assets."
        )

    def paint(axes: Axes) -> None:
        x = np.arange(len(kept))
        low, high = np.array([row[2] for row in kept]), np.array([row[3] for row in kept])
        axes.bar(x, high - low, bottom=low, width=0.5, color=GREY, alpha=0.5, label="chance")
        axes.plot(x, [row[1] for row in kept], "o-", color=MODEL, label="observed")
        axes.set_xticks(
            x,
            [text(row[0]) for row in kept],
            rotation=30 if len(kept) > 3 else 0,
            ha="right" if len(kept) > 3 else "center",
        )
        axes.set(ylabel="Jaccard with the fold before", ylim=(0, 1.05))
        axes.legend()

    above = sum(row[1] > row[3] for row in kept)
    mean = float(np.mean([row[1] for row in kept]))
    says = (
        f"Neighbouring folds share {say.percent(mean, 0)} of their edges on average; {above} of"
        f" {say.plural(len(kept), 'overlap')} {'lies' if above == 1 else 'lie'} above chance"
        + ("." if above == len(kept) else ": the rest could be chance.")
    )
    return Drawing(11, title, how, says, (svg(paint, says),))


def _overlap(before: Fold, after: Fold, rng: np.random.Generator) -> tuple[float, float, float] | None:
    """Jaccard of two folds' edges among their common symbols, and its 95 % range under renaming."""
    shared = [symbol for symbol in after.symbols if symbol in before.symbols]
    first, second = edge_matrix(before), edge_matrix(after)
    if first is None or second is None or len(shared) < 3:
        return None
    a = first[np.ix_(*[[before.symbols.index(s) for s in shared]] * 2)]
    b = second[np.ix_(*[[after.symbols.index(s) for s in shared]] * 2)]
    if not (a.any() or b.any()):
        return None
    chance = []
    for _ in range(SHUFFLES):
        order = rng.permutation(len(shared))
        chance.append(edge_agreement(a, b[np.ix_(order, order)]).jaccard)
    low, high = np.quantile(chance, [0.025, 0.975])
    return edge_agreement(a, b).jaccard, float(low), float(high)
