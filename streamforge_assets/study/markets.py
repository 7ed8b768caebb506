"""Simulated markets as panels, with their truth beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamforge_assets.graphs.graph import Bools, edges_of
from streamforge_assets.market.features import CLIP, SIGMA_FLOOR, ewma_volatility
from streamforge_assets.market.panel import RETURN_Z, Floats, Panel
from streamforge_assets.simulator.instruments import instruments
from streamforge_assets.simulator.market import BARS, MarketParameters, simulate
from streamforge_assets.simulator.network import Network

STEP = 86_400_000_000 // BARS
MEMORY = 2016


@dataclass(frozen=True)
class StudyMarket:
    """A simulated market: `panel`, and what nobody can observe.

    `mu` (T, N) is the exact expectation of the return of bar t + 1 given all up to the end of bar t, in raw log
    returns: the oracle's forecast, aligned with a model's row t. The last row is 0. `networks` are the planted
    ones, one for each regime.
    """

    panel: Panel
    mu: Floats
    networks: tuple[Network, ...]


def study_market(parameters: MarketParameters, steps: int) -> StudyMarket:
    """Simulate `steps` bars; the volume feature is the market's volume state itself, observed without noise."""
    made = simulate(parameters, steps)
    returns = made.returns.astype(np.float64)
    sigma = np.maximum(ewma_volatility(returns), SIGMA_FLOOR)
    before = np.concatenate([sigma[:1], sigma[:-1]])
    slow = np.maximum(ewma_volatility(returns, MEMORY), SIGMA_FLOOR)
    columns = [np.clip(returns / before, -CLIP, CLIP), made.volume_state, np.log(sigma / slow)]
    mask = np.ones(returns.shape, dtype=np.bool_)
    mask[0] = False
    features = np.where(mask[:, :, None], np.stack(columns, axis=-1), 0.0).astype(np.float32)
    panel = Panel(
        symbols=tuple(item.symbol for item in instruments(parameters.n)),
        times=np.arange(steps, dtype=np.int64) * STEP,
        returns=np.where(mask, returns, 0.0),
        sigma=sigma,
        mask=mask,
        features=features,
        names=(RETURN_Z, "log_volume_z", "log_sigma_ratio"),
    )
    mu = np.zeros_like(returns)
    mu[:-1] = made.mu[1:]
    return StudyMarket(panel, mu, made.networks)


def planted_edges(network: Network) -> Bools:
    """Whether `[follower, leader]` is planted at any lag, shape (N, N); the diagonal is False."""
    return edges_of(network.adjacency())
