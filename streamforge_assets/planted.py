"""The truth of a simulated exchange, shown by reports and plots beside what was found. No computation sees it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cached_property

import numpy as np

from resources.settings import Settings
from streamforge_assets.market.panel import Floats
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.truth import Oracle


class Planted:
    """What was planted in the market of `settings`, by symbol name."""

    def __init__(self, settings: Settings) -> None:
        self._config = SimulatorConfig(symbols=settings.simulator_symbols, seed=settings.simulator_seed)

    @cached_property
    def _oracle(self) -> Oracle:
        return Oracle(self._config)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item.symbol: at for at, item in enumerate(self._config.instruments)}

    def edges(self, day: date, symbols: Sequence[str]) -> Floats:
        """The planted weights `[follower, leader]` of `symbols` at whatever lag, own lags left out, (N, N)."""
        at = [self._index[symbol] for symbol in symbols]
        weights = self._oracle.planted(day).adjacency.sum(axis=0)[np.ix_(at, at)]
        np.fill_diagonal(weights, 0.0)
        return np.asarray(weights)

    def forecast(self, day: date, symbols: Sequence[str]) -> Floats:
        """The exact expectation of each five-minute log return given all before it, shape (288, N)."""
        return np.asarray(self._oracle.forecast(day)[:, [self._index[symbol] for symbol in symbols]])


def planted(settings: Settings) -> Planted | None:
    """The truth of the exchange that `settings` choose, where there is one: the simulated."""
    return Planted(settings) if settings.exchange == "simulated" else None
