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
from streamforge_assets.partitions import market_asset_key


def market_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Trades, and candles of every interval: by day and symbol."""
    return [market_asset(settings, dataset) for dataset in settings.market_datasets]


def modelling_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """What is made of the market data: by day."""
    followed = (TRADES, candles(settings.feature_interval))
    return [
        features_asset(settings, [market_asset_key(dataset.name) for dataset in followed]),
        asset_graph_asset(settings),
        gnn_model_asset(settings),
        forecasts_asset(settings),
    ]
