"""Every asset that the settings ask for."""

from __future__ import annotations

import dagster as dg

from resources.datasets import TRADES, candles
from resources.settings import Settings
from streamforge_assets.assets.asset_graph import asset_graph_asset
from streamforge_assets.assets.features import features_asset
from streamforge_assets.assets.forecasts import forecasts_asset
from streamforge_assets.assets.gnn_model import gnn_model_asset
from streamforge_assets.assets.market_data import market_asset


def market_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Trades, and candles of every interval: by day and symbol."""
    intervals = dict.fromkeys((*settings.intervals, settings.feature_interval))
    return [market_asset(settings, dataset) for dataset in (TRADES, *(candles(name) for name in intervals))]


def modelling_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """What is made of the market data: by day."""
    followed = [asset.key for asset in market_assets(settings) if asset.key.path[-1] in _followed(settings)]
    return [
        features_asset(settings, followed),
        asset_graph_asset(settings),
        gnn_model_asset(settings),
        forecasts_asset(settings),
    ]


def _followed(settings: Settings) -> set[str]:
    return {TRADES.name, candles(settings.feature_interval).name}
