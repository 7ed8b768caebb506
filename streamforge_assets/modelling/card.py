"""The model card: what a model is, what it was made of, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamforge_assets.gnn.forecaster import TrainedModel


def model_card(day: date, model: TrainedModel, metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The card as Markdown (Mitchell et al., 2019), from the model itself and its data manifest."""
    graph, gate = model.graph, "gate used" if model.gated else "gate not used"
    lines = [
        f"# Model of {day}",
        "",
        "Forecasts the log return of the next bar of each symbol, at the end of every bar, from the returns,",
        "volume and volatility of its leaders in the graph and of itself.",
        "",
        "## What it is",
        f"- network: {model.config.model}, encoder {model.config.encoder}, {gate}",
        f"- graph: {graph.edges} directed edges between {len(graph.symbols)} symbols, lags up to {graph.lags}",
        f"- symbols: {', '.join(graph.symbols)}",
        f"- features: {', '.join(model.names)}",
        f"- seed {metrics.get('seed')}, {metrics.get('epochs')} epochs, {metrics['cpu_seconds']:.1f} CPU seconds",
        "",
        "## What it was made of",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in manifest.items() if name != "symbols"),
        "",
        "## What to know",
        f"- {model.note}" if model.note else "- the graph is not empty",
        "- `predictions.parquet` holds what it says of the bars that it learned from. How well it forecasts is in",
        "  `models/forecasts` of the days after, beside every baseline.",
        "- It knows these symbols and this interval only. A market that changes makes it old: train it every day.",
        "- Forecasts are expectations before costs. Most of them are smaller than the cost of a trade.",
    ]
    return "\n".join(lines) + "\n"
