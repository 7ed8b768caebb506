"""What a graph network has to beat: the common interface, and the linear ones. Pure NumPy.

All forecast raw log returns like a trained model: row t, known at the end of bar t, speaks of bar t + 1. Each is
fitted on all rows of the panel given and, where it has something to tune, tunes on the last fifth of them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from resources.errors import Rejected
from streamforge_assets.gnn.gls import Edges
from streamforge_assets.gnn.gls import predict as sparse_predict
from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.market.panel import Floats, Panel, targets

TAIL = 0.2
PURGE = 6
LEAST_BARS = 100
_OWN_LAGS = 4
_PENALTIES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)


class Baseline(ABC):
    """A forecaster with a name, which can be fitted, asked and kept in a file."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.symbols: tuple[str, ...] = ()

    def fit(self, panel: Panel, graph: AssetGraph) -> None:
        """Learn from all bars of the panel and from nothing else.

        Raises:
            Rejected: for too few bars or a graph of other symbols.
        """
        if panel.bars < LEAST_BARS:
            raise Rejected(
                f"the baseline {self.name} needs {LEAST_BARS} bars at least; the panel has {panel.bars}"
            )
        if graph.symbols != panel.symbols:
            raise Rejected(f"the graph given to the baseline {self.name} is of other symbols than the panel")
        self.symbols = panel.symbols
        self._fit(panel, graph)

    def predict(self, panel: Panel) -> Floats:
        """Forecasts of raw log returns, shape (T, N).

        Raises:
            Rejected: for a panel of other symbols than it was fitted on.
        """
        if panel.symbols != self.symbols:
            raise Rejected(f"the baseline {self.name} was fitted on {', '.join(self.symbols)}, not on this panel")
        return self._standardised(panel) * panel.sigma

    def save(self, folder: Path) -> None:
        """Write the baseline to `folder` / `name`.json."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"name": self.name, "symbols": list(self.symbols), "state": self.state()}
        (folder / f"{self.name}.json").write_text(json.dumps(content), encoding="utf-8")

    @abstractmethod
    def _fit(self, panel: Panel, graph: AssetGraph) -> None: ...

    @abstractmethod
    def _standardised(self, panel: Panel) -> Floats:
        """Forecasts in units of sigma."""

    def state(self) -> dict[str, Any]:
        """What was learned, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to take
        """Take what `state` gave."""


class Zero(Baseline):
    """The random walk: every forecast is 0."""

    name = "zero"

    def _fit(self, panel: Panel, graph: AssetGraph) -> None:
        """Nothing to learn."""

    def _standardised(self, panel: Panel) -> Floats:
        return np.zeros_like(panel.returns)


class Persistence(Baseline):
    """The next return is the last one."""

    name = "persistence"

    def _fit(self, panel: Panel, graph: AssetGraph) -> None:
        """Nothing to learn."""

    def _standardised(self, panel: Panel) -> Floats:
        return np.asarray(panel.returns / panel.sigma)


class _Linear(Baseline):
    """Ridge regression of targets on standardised returns; `coefficients` is (K, N)."""

    def __init__(self) -> None:
        super().__init__()
        self.coefficients: Floats = np.zeros((0, 0))
        self.penalty = 0.0

    def state(self) -> dict[str, Any]:
        return {"coefficients": self.coefficients.tolist(), "penalty": self.penalty}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.coefficients, self.penalty = np.array(state["coefficients"]), state["penalty"]


class ArRidge(_Linear):
    """Each asset's next return from its own last four, penalty tuned."""

    name = "ar_ridge"

    def _fit(self, panel: Panel, graph: AssetGraph) -> None:  # noqa: ARG002 - one interface
        y, known = targets(panel)
        lagged = lagged_returns(panel, _OWN_LAGS)
        cut = tuning_row(panel.bars)

        def solve(penalty: float, stop: int) -> Floats:
            columns = [
                _ridge(lagged[:stop, :, i], y[:stop, i, None], known[:stop, i, None], penalty)[:, 0]
                for i in range(y.shape[1])
            ]
            return np.stack(columns, axis=1)

        def loss(coefficients: Floats) -> float:
            predicted = np.einsum("tkn,kn->tn", lagged[cut:], coefficients)
            return float(np.mean(((y[cut:] - predicted) * known[cut:]) ** 2))

        self.penalty = min(_PENALTIES, key=lambda penalty: loss(solve(penalty, cut - PURGE)))
        self.coefficients = solve(self.penalty, panel.bars)

    def _standardised(self, panel: Panel) -> Floats:
        return np.asarray(np.einsum("tkn,kn->tn", lagged_returns(panel, _OWN_LAGS), self.coefficients))


class VarRidge(_Linear):
    """Each asset's next return from the last returns of all, as many lags as the graph has, penalty tuned."""

    name = "var_ridge"

    def __init__(self) -> None:
        super().__init__()
        self.lags = 1

    def _fit(self, panel: Panel, graph: AssetGraph) -> None:
        self.lags = max(graph.lags, 1)
        y, known = targets(panel)
        x = lagged_returns(panel, self.lags).reshape(panel.bars, -1)
        cut = tuning_row(panel.bars)

        def loss(penalty: float) -> float:
            coefficients = _ridge(x[: cut - PURGE], y[: cut - PURGE], known[: cut - PURGE], penalty)
            return float(np.mean(((y[cut:] - x[cut:] @ coefficients) * known[cut:]) ** 2))

        self.penalty = min(_PENALTIES, key=loss)
        self.coefficients = _ridge(x, y, known, self.penalty)

    def _standardised(self, panel: Panel) -> Floats:
        return np.asarray(lagged_returns(panel, self.lags).reshape(panel.bars, -1) @ self.coefficients)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "lags": self.lags}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.lags = state["lags"]


class SparseVar(Baseline):
    """The graph's own weights and own lags as they are: where the graph network starts from."""

    name = "sparse_var"

    def __init__(self) -> None:
        super().__init__()
        self.edges = Edges(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
        self.weight: Floats = np.zeros(0)

    def _fit(self, panel: Panel, graph: AssetGraph) -> None:  # noqa: ARG002 - one interface
        lag, asset = np.nonzero(graph.own)
        sides = ((graph.leader, asset), (graph.follower, asset), (graph.lag, lag + 1))
        self.edges = Edges(*(np.concatenate([held, own]).astype(np.int64) for held, own in sides))
        self.weight = np.concatenate([graph.weight, graph.own[lag, asset]])

    def _standardised(self, panel: Panel) -> Floats:
        return sparse_predict(panel, self.edges, self.weight)

    def state(self) -> dict[str, Any]:
        values = (self.edges.leader, self.edges.follower, self.edges.lag, self.weight)
        return {"edges": [value.tolist() for value in values]}

    def restore(self, state: Mapping[str, Any]) -> None:
        *sides, weight = state["edges"]
        self.edges = Edges(*(np.array(side, dtype=np.int64) for side in sides))
        self.weight = np.array(weight, dtype=np.float64)


def tuning_row(bars: int) -> int:
    """The first row of the part that is tuned on."""
    return bars - int(TAIL * bars)


def shifted(values: Floats, back: int) -> Floats:
    """Values `back` rows earlier, 0 before the first."""
    if back == 0:
        return values
    out = np.zeros_like(values)
    out[back:] = values[:-back]
    return out


def lagged_returns(panel: Panel, lags: int) -> Floats:
    """r[t - k] / sigma[t] for k = 0 … lags - 1, 0 before the panel: shape (T, lags, N)."""
    return np.stack([shifted(panel.returns, back) / panel.sigma for back in range(lags)], axis=1)


def _ridge(x: Floats, y: Floats, known: np.ndarray, penalty: float) -> Floats:
    """Coefficients (K, N) of y (T, N) on x (T, K), rows where y is not known left at 0; penalty per row."""
    gram = x.T @ x
    ridge = penalty * np.trace(gram) / len(gram) + 1e-12
    return np.asarray(np.linalg.solve(gram + ridge * np.eye(len(gram)), x.T @ (y * known)))
