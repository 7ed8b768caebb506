"""What modelling works with: settings, store and artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from resources.artifacts.port import Artifacts
from resources.datasets import Dataset, candles
from resources.settings import Settings
from resources.store.port import Store
from streamforge_assets.market.panel import Floats

PlantedEdges = Callable[[date, Sequence[str]], Floats]
"""The network planted in a simulated market on a day: weights `[follower, leader]` of the symbols, (N, N)."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Open store and artifacts."""

    settings: Settings
    store: Store
    artifacts: Artifacts

    @property
    def dataset(self) -> Dataset:
        """The candles that features are made from."""
        return candles(self.settings.feature_interval)
