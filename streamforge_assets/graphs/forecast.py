"""What a graph alone says about the next bar: the sparse VAR that graph models start from. Pure NumPy."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from resources.errors import Rejected
from streamforge_assets.graphs.graph import AssetGraph, Floats
from streamforge_assets.market.panel import Panel


def sparse_var_forecast(graph: AssetGraph, panel: Panel) -> Floats:
    """Forecast of the return of bar t + 1 made at the end of bar t, raw log return, shape (T, N).

    f[t, i] = sum over edges j -> i of weight * r[t + 1 - lag, j] + sum over l of own[l - 1, i] * r[t + 1 - l, i]

    Masked bars and bars before the panel contribute 0.

    Raises:
        Rejected: if the panel's symbols are not the graph's, in its order.
    """
    if panel.symbols != graph.symbols:
        raise Rejected(
            f"the graph is of {', '.join(graph.symbols)}; the panel is of {', '.join(panel.symbols)}; choose the"
            " graph's symbols in their order"
        )
    returns = np.where(panel.mask, panel.returns, 0.0).T
    forecast = np.zeros_like(returns)
    for lag, weights in enumerate(graph.adjacency(), start=1):
        part = csr_array(weights) @ returns
        forecast[:, lag - 1 :] += part[:, : part.shape[1] - (lag - 1)]
    return np.ascontiguousarray(forecast.T)
