"""Tiny plots for the metadata of a partition: Markdown with the picture inside, each at most 30 kB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from streamforge_assets.gnn.report import wording as say
from streamforge_assets.gnn.report.data import Floats, Mask
from streamforge_assets.gnn.report.drawing import BASELINE, DARK, MODEL, markdown, png, text, thin
from streamforge_assets.graphs.agreement import edge_agreement
from streamforge_assets.graphs.graph import AssetGraph, edges_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL = (3.4, 2.2)
LIMIT = 30_000
LOSSES = ("loss", "validation_loss")


def small_adjacency(graph: AssetGraph, planted: Mask | Floats | None = None) -> str:
    """The graph's edges [follower, leader] beside the planted ones (N, N), where there are any."""
    if len(graph.symbols) < 2:
        return "_a graph needs two symbols_"
    alt = f"{graph.edges} edges between {len(graph.symbols)} assets"
    if planted is not None:
        found = edge_agreement(edges_of(graph.adjacency()), planted != 0)
        alt += f": precision {say.percent(found.precision)}, recall {say.percent(found.recall)}"
        alt += f", F1 {say.number(found.f1)}"
    return markdown(adjacency_png(graph, planted), alt)


def adjacency_png(graph: AssetGraph, planted: Mask | Floats | None = None) -> bytes:
    """What `small_adjacency` shows, as a PNG."""
    n = len(graph.symbols)
    weights = graph.adjacency().sum(axis=0) if graph.lags else np.zeros((n, n))
    np.fill_diagonal(weights, 0.0)
    sides = [("recovered", np.sign(weights))]
    if planted is not None:
        sides.insert(0, ("planted", np.sign(planted.astype(np.float64))))
    wide = np.concatenate(
        [part for _, values in sides for part in (values, np.full((n, max(1, n // 12)), np.nan))][:-1], axis=1
    )

    def paint(axes: Axes) -> None:
        axes.imshow(wide, cmap="RdBu", vmin=-1.2, vmax=1.2, interpolation="nearest", aspect="equal")
        axes.grid(visible=False)
        axes.set(xticks=[], yticks=[], ylabel="follower", xlabel="leader")
        axes.set_title(" | ".join(name for name, _ in sides), fontsize=8)

    return png(paint, SMALL if planted is not None else (2.2, 2.2))


def small_loss(history: Mapping[str, Sequence[float]]) -> str:
    """Training and validation loss by epoch."""
    curves = {name: history.get(name, ()) for name in LOSSES}
    ends = [
        f"{name.replace('_', ' ')} {say.number(float(values[-1]))}"
        for name, values in curves.items()
        if len(values)
    ]
    return markdown(loss_png(history), f"{say.listed(ends)} at the end") if ends else "_no training history_"


def loss_png(history: Mapping[str, Sequence[float]]) -> bytes:
    """What `small_loss` shows, as a PNG."""
    from matplotlib.ticker import MaxNLocator

    curves = {name: np.asarray(history.get(name, ()), dtype=np.float64) for name in LOSSES}

    def paint(axes: Axes) -> None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for (name, values), color, style in zip(curves.items(), (MODEL, BASELINE), ("-", "--"), strict=True):
            if len(values):
                at = thin(values)
                axes.plot(
                    at + 1,
                    values[at],
                    style,
                    color=color,
                    label=name.removesuffix("_loss").replace("loss", "training"),
                )
        axes.set(xlabel="epoch", ylabel="loss")
        axes.legend()

    return png(paint, SMALL)


def small_ic(labels: Sequence[str], ics: Sequence[float], errors: Sequence[float] | None = None) -> str:
    """Mean IC per fold, with 95 % whiskers from standard errors."""
    if not len(ics):
        return "_no folds_"

    def paint(axes: Axes) -> None:
        x = np.arange(len(ics))
        axes.bar(x, ics, color=MODEL, alpha=0.85, width=0.6)
        if errors is not None:
            axes.errorbar(x, ics, yerr=1.96 * np.asarray(errors), fmt="none", ecolor=DARK, capsize=2)
        axes.axhline(0, color=DARK, linewidth=0.8)
        few = thin(np.asarray(ics), 6)
        axes.set_xticks(few, [text(labels[at]) for at in few], fontsize=7, rotation=30 if len(few) > 3 else 0)
        axes.set_ylabel("mean IC")

    return markdown(
        png(paint, SMALL), f"mean IC {say.ic(float(np.mean(ics)))} over {say.plural(len(ics), 'fold')}"
    )
