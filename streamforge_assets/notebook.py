"""What graphs, models and reports look like in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.market.panel import Panel

if TYPE_CHECKING:
    import networkx as nx
    from torch_geometric.data import Data

    from streamforge_assets.gnn.forecaster import TrainedModel


@dataclass(frozen=True)
class Graph:
    """The graph between assets of one day. Shows as the table of its edges, the strongest first."""

    day: date
    graph: AssetGraph = field(repr=False)

    @cached_property
    def edges(self) -> pd.DataFrame:
        """One row for each edge: leader, follower, lag in bars, weight (return per return), t, p, q."""
        names = np.array(self.graph.symbols, dtype=object)
        frame = pd.DataFrame(
            {
                "leader": names[self.graph.leader],
                "follower": names[self.graph.follower],
                "lag": self.graph.lag,
                "weight": self.graph.weight,
                "t": self.graph.t,
                "p": self.graph.p,
                "q": self.graph.q,
            }
        )
        return frame.sort_values("t", key=abs, ascending=False, ignore_index=True)

    def to_networkx(self) -> nx.MultiDiGraph:
        """The graph for networkx: an edge from leader to follower for each lag, with its numbers as attributes."""
        import networkx as nx

        made: nx.MultiDiGraph = nx.MultiDiGraph(day=str(self.day))
        made.add_nodes_from(self.graph.symbols)
        for row in self.edges.to_dict("records"):
            numbers = {str(name): row[name] for name in ("lag", "weight", "t", "p", "q")}
            made.add_edge(row["leader"], row["follower"], key=row["lag"], **numbers)
        return made

    def to_pyg(self) -> Data:
        """The graph for torch-geometric.

        `edge_index` (2, E) runs from leader to follower; `edge_attr` (E, 3) is weight, lag and t.
        """
        import torch
        from torch_geometric.data import Data

        ends = np.stack([self.graph.leader, self.graph.follower])
        numbers = np.stack([self.graph.weight, self.graph.lag, self.graph.t], axis=1)
        return Data(
            edge_index=torch.from_numpy(ends),
            edge_attr=torch.from_numpy(numbers).float(),
            num_nodes=len(self.graph.symbols),
            symbols=list(self.graph.symbols),
        )

    def _repr_html_(self) -> str:
        return str(self.edges.to_html(index=False))


@dataclass(frozen=True)
class Model:
    """The trained model of one day, whole and unchanged since it was published."""

    day: date
    trained: TrainedModel = field(repr=False)
    metrics: Mapping[str, Any]
    card: str = field(repr=False)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that the model forecasts."""
        return self.trained.symbols

    def predict(self, panel: Panel) -> pd.DataFrame:
        """Forecast log returns: one row for each bar that ends in the panel, indexed by the bar that is forecast.

        Raises:
            Rejected: for a panel of other symbols or too few bars.
        """
        step = int(panel.times[1] - panel.times[0]) if panel.bars > 1 else 0
        index = pd.DatetimeIndex(pd.to_datetime(panel.times + step, unit="us", utc=True), name="time")
        return pd.DataFrame(self.trained.predict(panel), index=index, columns=list(panel.symbols))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.card)}</pre>"


@dataclass(frozen=True)
class Report:
    """The honest report of a span of forecasts: one HTML file, shown inline in a notebook."""

    path: Path
    verdict: str
    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.html)}" width="100%" height="900" style="border:0"></iframe>'
