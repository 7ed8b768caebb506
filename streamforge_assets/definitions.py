"""What Dagster loads: composition only."""

import dagster as dg

from resources.datasets import TRADES, candles
from resources.settings import Settings, load_settings
from streamforge_assets.assets.market_data import market_asset
from streamforge_assets.assets.session import Session
from streamforge_assets.schedules import daily_market_data


def build_definitions(settings: Settings) -> dg.Definitions:
    """The assets, schedules and resources that `settings` ask for."""
    datasets = [TRADES, *(candles(interval) for interval in settings.intervals)]
    market = [market_asset(settings, dataset) for dataset in datasets]
    return dg.Definitions(
        assets=market,
        schedules=[daily_market_data(market)],
        resources={"session": Session(settings)},
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions for the settings of the environment."""
    return build_definitions(load_settings())
