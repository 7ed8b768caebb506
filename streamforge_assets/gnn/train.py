"""From a panel and a graph to a trained model: the steps in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resources.errors import Rejected
from streamforge_assets.gnn import gls
from streamforge_assets.gnn.batching import PanelTensors, fit_standardise
from streamforge_assets.gnn.checkpoint import Checkpoints
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.forecaster import TrainedModel, gate_values
from streamforge_assets.gnn.loss import joint_loss
from streamforge_assets.gnn.model import Forecaster, SignedGated, all_edges, separate, with_selection
from streamforge_assets.gnn.registry import build_model
from streamforge_assets.gnn.selection import select
from streamforge_assets.gnn.training import History, Progress, Split, Trainer, check_device, split_rows
from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.market.panel import Floats, Panel, targets

GraphMaker = Callable[[Panel], AssetGraph]
GATE_SIGNIFICANCE = 2.0
"""t statistic of the validation gain from which the gate is used."""


@dataclass(frozen=True)
class _Start:
    """Everything that gradient training starts from."""

    split: Split
    graph: AssetGraph
    noise: gls.Noise
    model: Forecaster
    data: PanelTensors


def train_model(
    panel: Panel,
    graph: AssetGraph | GraphMaker,
    config: GnnConfig | None = None,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> TrainedModel:
    """Train on all bars of the panel, and on nothing else.

    1. The last share of the rows is kept for validation, after a purge and an embargo. 2. The graph's weights are
    fitted by generalised least squares on the training rows. 3. Gradient training moves them and the gate until
    validation stops it. 4. The gate stays if it is better on the validation rows than the same edges without it.
    5. The edges' weights are fitted anew on all rows with the gate held.

    Args:
        panel: bars that may be learned from.
        graph: the graph, built on these bars or earlier ones; or what builds it: called with the training rows
            for steps 2 to 4 and with the whole panel for step 5, so that validation is free of leaks.
        config: the default is the product's.
        checkpoint: a folder in which the training's state is kept; a training that was killed goes on from it
            and ends with the same bits. None keeps none.
        checkpoint_every: steps between two checkpoints; None for one after each epoch.
        progress: called after each step.
        device: `cpu`, `cuda` …; the same code on both.
        threads: of torch and BLAS.

    Raises:
        Rejected: for too few bars, a graph of other symbols, a device that is absent, or a checkpoint that is
            damaged or of another training.
    """
    config = config or GnnConfig()
    check_device(device)
    with _threads(threads):
        start = _prepare(panel, graph, config, device)
        history = History()
        if start.model.trainable:
            identity = _identity(panel, start.graph, config, device, threads)
            checkpoints = Checkpoints(checkpoint, identity) if checkpoint else None
            precision = torch.tensor(start.noise.precision, dtype=torch.float32, device=device)
            trainer = Trainer(
                start.model, start.data, start.split, precision, checkpoints=checkpoints, every=checkpoint_every
            )
            history = trainer.run(progress)
        return _finish(panel, graph, config, start, history)


def _prepare(panel: Panel, graph: AssetGraph | GraphMaker, config: GnnConfig, device: str) -> _Start:
    lags = 1 if callable(graph) else graph.lags
    split = split_rows(panel.bars, config, lags)
    if callable(graph):
        graph = graph(panel.rows(0, split.train.stop + 1))
        split = split_rows(panel.bars, config, graph.lags)
    if graph.symbols != panel.symbols:
        raise Rejected(
            f"the graph is of {', '.join(graph.symbols)}, the panel of {', '.join(panel.symbols)}; build the graph"
            " from this panel"
        )
    rows = _marked(panel, split.train)
    found = gls.fit(panel, all_edges(graph), tail=config.tail, rows=rows)
    if config.model == "signed_gated":
        graph = _completed(panel, graph, found, config, None, rows)
    unit = np.sqrt(np.mean(panel.sigma[split.train.start : split.train.stop] ** 2, axis=0))
    model = build_model(config, graph, unit, len(panel.names))
    mean, deviation = fit_standardise(panel.features[: split.train.stop], panel.mask[: split.train.stop])
    model.standardise.mean.copy_(torch.from_numpy(mean))
    model.standardise.deviation.copy_(torch.from_numpy(deviation))
    model = model.to(device)
    return _Start(split, graph, found.noise, model, PanelTensors.of(panel, found.noise.scale, device))


def _completed(
    panel: Panel,
    graph: AssetGraph,
    found: gls.Fit,
    config: GnnConfig,
    gate: Floats | None,
    rows: NDArray[np.bool_] | None,
) -> AssetGraph:
    """The graph with weights by generalised least squares, and a second look at its edges if `config` wants it.

    An empty graph stays empty: it is the builder that decides whether there is any structure at all.
    """
    edges = all_edges(graph)
    if not config.shrinkage or not len(edges):
        weight, own = separate(graph, found.weight)
        return replace(graph, weight=weight, own=own)
    chosen = select(
        panel, edges, max(graph.lags, 1), found, gate, rows=rows, complete=config.complete and graph.edges > 0
    )
    return with_selection(graph, chosen)


def _finish(
    panel: Panel, graph: AssetGraph | GraphMaker, config: GnnConfig, start: _Start, history: History
) -> TrainedModel:
    facts: dict[str, Any] = {
        "seed": config.seed,
        "bars": panel.bars,
        "train_rows": [start.split.train.start, start.split.train.stop],
        "validation_rows": [start.split.validation.start, start.split.validation.stop],
        "epochs": len(history.train),
        "torch": str(torch.__version__),
    }
    model, final = start.model, start.graph
    gated = False
    if isinstance(model, SignedGated):
        gate = gate_values(model, panel)
        if gate is not None and start.graph.edges:
            facts["gate_gain_t"] = _gate_gain(panel, start, gate, config)
            gated = facts["gate_gain_t"] > GATE_SIGNIFICANCE
        given = graph(panel) if callable(graph) else graph
        model, final = _refitted(panel, given, model, config, gate if gated else None)
        facts |= {"edges_given": given.edges, "edges": final.edges}
    model.eval()
    return TrainedModel(config, final, panel.names, model.to("cpu"), gated, history, _note(config, final), facts)


def _gate_gain(panel: Panel, start: _Start, gate: Floats, config: GnnConfig) -> float:
    """How surely the gate helps: t of the validation loss of the same edges without it minus with it, per bar."""
    rows = _marked(panel, start.split.train)
    at = slice(start.split.validation.start, start.split.validation.stop)
    edges = all_edges(start.graph)
    y, known = targets(panel)
    use = torch.from_numpy((known / start.noise.scale)[at])
    precision = torch.from_numpy(start.noise.precision)
    losses = []
    for opened in (None, gate):
        fitted = gls.fit(panel, edges, opened, tail=config.tail, rows=rows, rounds=1, noise=start.noise)
        predicted = torch.from_numpy(gls.predict(panel, edges, fitted.weight, opened)[at])
        losses.append(joint_loss(predicted, torch.from_numpy(y[at]), use, precision, config.tail).numpy())
    gain = losses[0] - losses[1]
    deviation = float(gain.std())
    return float(gain.mean() / deviation * np.sqrt(len(gain))) if deviation > 0 else 0.0


def _refitted(
    panel: Panel, graph: AssetGraph, model: SignedGated, config: GnnConfig, gate: Floats | None
) -> tuple[SignedGated, AssetGraph]:
    """The model on `graph`, its gate kept or dropped, its edges judged and fitted in closed form on every row."""
    edges = all_edges(graph)
    found = gls.fit(panel, edges, gate, tail=config.tail)
    final = _completed(panel, graph, found, config, gate, None)
    made = SignedGated(replace(config, gate=gate is not None), final, model.unit.cpu().numpy(), len(panel.names))
    made.standardise.load_state_dict(model.standardise.state_dict())
    if made.gate is not None and model.gate is not None:
        made.gate.load_state_dict(model.gate.state_dict())
    return made, final


def _marked(panel: Panel, rows: range) -> NDArray[np.bool_]:
    marked = np.zeros(panel.bars, dtype=np.bool_)
    marked[rows.start : rows.stop] = True
    return marked


def _note(config: GnnConfig, graph: AssetGraph) -> str:
    if config.model == "no_graph":
        return "This model uses no graph."
    if graph.edges:
        return ""
    if len(graph.symbols) == 1:
        cause = f"There is only one symbol, {graph.symbols[0]}, so the graph is empty"
    else:
        cause = "No asset was found to lead another, so the graph is empty"
    rest = "own lags only" if np.any(graph.own) else "every forecast is exactly 0"
    return f"{cause}: {rest}."


def _identity(panel: Panel, graph: AssetGraph, config: GnnConfig, device: str, threads: int) -> dict[str, str]:
    total = hashlib.sha256("\n".join(graph.symbols).encode())
    for array in (graph.leader, graph.follower, graph.lag, graph.weight, graph.own):
        total.update(np.ascontiguousarray(array).tobytes())
    return {
        "config": config.digest,
        "data": panel.digest,
        "graph": total.hexdigest(),
        "device": device,
        "threads": str(threads),
        "torch": str(torch.__version__),
    }


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)
