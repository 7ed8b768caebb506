"""What Dagster loads: composition only."""

import dagster as dg

from resources.settings import Settings, load_settings
from streamforge_assets.assets.candles import candles_asset
from streamforge_assets.assets.session import Session
from streamforge_assets.assets.trades import trades_asset
from streamforge_assets.schedules import daily_market_data


def build_definitions(settings: Settings) -> dg.Definitions:
    """The assets, schedules and resources that `settings` ask for."""
    market = [trades_asset(settings), *(candles_asset(settings, interval) for interval in settings.intervals)]
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
