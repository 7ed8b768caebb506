"""The graph of a day: built from the window of features, kept as a table of edges that any tool reads."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from resources.artifacts.port import Artifacts
from resources.artifacts.sealed import is_published, publish_sealed, read_sealed
from resources.errors import Rejected
from resources.settings import Settings
from streamforge_assets.graphs.build import GraphConfig, build_graph
from streamforge_assets.graphs.drift import jaccard
from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.modelling.panels import Window, read_window
from streamforge_assets.modelling.storage import Storage

EDGES, PAIRS, REST = "edges.parquet", "contemporaneous.parquet", "graph.json"


def graph_prefix(interval: str, day: date) -> str:
    """Where the graph of a day is kept."""
    return f"graphs/{interval}/{day}"


def graph_config(settings: Settings) -> GraphConfig:
    """How the settings want graphs to be built."""
    return GraphConfig(lags=settings.model_lags)


async def make_graph(storage: Storage, day: date) -> tuple[Window, AssetGraph]:
    """Build and publish the graph of the window that ends with `day`.

    Raises:
        Rejected: when the window is not covered, or no graph can be made of it.
    """
    settings = storage.settings
    window = await read_window(
        storage.artifacts, storage.dataset, day, settings.model_window, settings.model_coverage
    )
    with threadpool_limits(settings.threads):
        graph = await asyncio.to_thread(build_graph, window.panel, graph_config(settings))
    await publish_graph(storage.artifacts, settings.feature_interval, day, graph)
    return window, graph


async def overlap(storage: Storage, day: date, graph: AssetGraph) -> float | None:
    """Jaccard index of the edges of `graph` and those of another day's; None when that day has no graph."""
    if not await is_published(storage.artifacts, graph_prefix(storage.settings.feature_interval, day)):
        return None
    return jaccard(graph, await read_graph(storage.artifacts, storage.settings.feature_interval, day))


async def publish_graph(artifacts: Artifacts, interval: str, day: date, graph: AssetGraph) -> None:
    """Keep the graph of a day."""
    await publish_sealed(artifacts, graph_prefix(interval, day), to_files(graph))


async def read_graph(artifacts: Artifacts, interval: str, day: date) -> AssetGraph:
    """The graph of a day.

    Raises:
        Rejected: when that day has none, or its files were changed.
    """
    prefix = graph_prefix(interval, day)
    if not await is_published(artifacts, prefix):
        raise Rejected(f"there is no graph of {day}; materialise analysis/asset_graph of that day first")
    return from_files(await read_sealed(artifacts, prefix))


def to_files(graph: AssetGraph) -> dict[str, bytes]:
    """The files of a graph by name; `from_files` gives an equal graph."""
    names = np.array(graph.symbols, dtype=object)
    edges = {
        "leader": pa.array(names[graph.leader], pa.string()),
        "follower": pa.array(names[graph.follower], pa.string()),
        "lag": graph.lag,
        "weight": graph.weight,
        "t": graph.t,
        "p": graph.p,
        "q": graph.q,
    }
    pairs = graph.contemporaneous.reshape(-1, 2)
    between = {
        "one": pa.array(names[pairs[:, 0]], pa.string()),
        "other": pa.array(names[pairs[:, 1]], pa.string()),
        "partial_correlation": graph.partial_correlation,
    }
    rest = {
        "symbols": graph.symbols,
        "own": graph.own.tolist(),
        "parameters": dict(graph.parameters),
        "data_hash": graph.data_hash,
    }
    return {EDGES: _table(edges), PAIRS: _table(between), REST: json.dumps(rest, indent=1).encode()}


def from_files(files: Mapping[str, bytes]) -> AssetGraph:
    """The graph whose files `to_files` made."""
    rest = json.loads(files[REST])
    index = {symbol: at for at, symbol in enumerate(rest["symbols"])}
    edges = pq.read_table(io.BytesIO(files[EDGES])).to_pydict()
    pairs = pq.read_table(io.BytesIO(files[PAIRS])).to_pydict()
    ends = [[index[one], index[other]] for one, other in zip(pairs["one"], pairs["other"], strict=True)]
    return AssetGraph(
        symbols=tuple(rest["symbols"]),
        leader=np.array([index[symbol] for symbol in edges["leader"]], dtype=np.int64),
        follower=np.array([index[symbol] for symbol in edges["follower"]], dtype=np.int64),
        lag=np.array(edges["lag"], dtype=np.int64),
        weight=np.array(edges["weight"], dtype=np.float64),
        t=np.array(edges["t"], dtype=np.float64),
        p=np.array(edges["p"], dtype=np.float64),
        q=np.array(edges["q"], dtype=np.float64),
        own=np.array(rest["own"], dtype=np.float64).reshape(-1, len(index)),
        contemporaneous=np.array(ends, dtype=np.int64).reshape(-1, 2),
        partial_correlation=np.array(pairs["partial_correlation"], dtype=np.float64),
        parameters=rest["parameters"],
        data_hash=rest["data_hash"],
    )


def _table(columns: Mapping[str, object]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), sink)
    return sink.getvalue()
