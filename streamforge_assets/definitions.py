"""What Dagster loads: composition only."""

import dagster as dg

from resources.settings import Settings, load_settings
from sensors.catalogue import sensors
from sensors.queue_events import stream_asset
from streamforge_assets.assets.catalogue import market_assets, modelling_assets
from streamforge_assets.assets.session import Session
from streamforge_assets.planted import planted
from streamforge_assets.schedules import daily_market_data, daily_models


def build_definitions(settings: Settings) -> dg.Definitions:
    """The assets, schedules, sensors and resources that `settings` ask for."""
    market, modelling = market_assets(settings), modelling_assets(settings)
    truth = planted(settings)
    return dg.Definitions(
        assets=[*market, *modelling, stream_asset()],
        schedules=[daily_market_data(market), daily_models(modelling)],
        sensors=sensors(settings, market),
        resources={"session": Session(settings, planted=truth.edges if truth else None)},
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions for the settings of the environment."""
    return build_definitions(load_settings())
