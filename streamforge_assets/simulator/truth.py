"""What was planted, for a report to compare with. No asset may read this."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.history import MarketHistory
from streamforge_assets.simulator.market import BARS
from streamforge_assets.simulator.network import Floats


@dataclass(frozen=True)
class PlantedTruth:
    """The planted network of one day.

    Args:
        symbols: the n symbols, in the order of every axis below.
        adjacency: weights, shape (lags, n, n): `[lag - 1, follower, leader]`, own lags on the diagonal.
        gates: which edges transmit by the leader's volume state, same shape.
    """

    symbols: tuple[str, ...]
    adjacency: Floats
    gates: NDArray[np.bool_]

    @property
    def edges(self) -> NDArray[np.bool_]:
        """Whether `[follower, leader]` is an edge at any lag, shape (n, n); the diagonal is False."""
        found = (self.adjacency != 0).any(axis=0)
        np.fill_diagonal(found, val=False)
        return np.asarray(found)

    @property
    def signs(self) -> NDArray[np.int8]:
        """1, -1 or 0 for each `[lag - 1, follower, leader]`."""
        return np.sign(self.adjacency).astype(np.int8)


class Oracle:
    """Everything about a simulated market that cannot be observed, from its configuration alone."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._history = MarketHistory(config)

    def planted(self, day: date) -> PlantedTruth:
        """The network in force at the start of `day`."""
        core, config = self._history.core, self._history.config
        network = core.network((day - config.first_day).days * BARS)
        return PlantedTruth(self._history.symbols, network.adjacency(), network.gates())

    def forecast(self, day: date) -> Floats:
        """The exact expectation of each five-minute log return given all before it, shape (288, n)."""
        return self._history.bars(day).mu

    def returns(self, day: date) -> Floats:
        """The five-minute log returns before prices were rounded to ticks, shape (288, n)."""
        return self._history.bars(day).returns

    def volume_state(self, day: date) -> Floats:
        """The volume state v that gates the edges, shape (288, n)."""
        return self._history.bars(day).volume_state
