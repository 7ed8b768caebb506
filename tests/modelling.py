"""A simulated market's candles put straight into the store, for tests of what is made of them."""

from collections.abc import Callable
from datetime import date

import numpy as np
import pyarrow as pa

from resources.datasets import DAY, Partition, candles
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.local_dagster import add_symbols, open_instance
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.history import MarketHistory

CONFIG = SimulatorConfig(symbols=6, seed=3, first_day=date(2024, 7, 1), r2=0.2)
FIRST = date(2024, 7, 29)
"""The first day that tests store."""

Change = Callable[[str, date, pa.Table], pa.Table]


def modelling_settings(home, **more) -> Settings:
    values = {"home": home, "exchange": "binance", "model_window": 4, "start_date": CONFIG.first_day, **more}
    return Settings(**values)


async def fill(
    settings: Settings, days: int, *, config=CONFIG, symbols=None, change: Change | None = None
) -> list[str]:
    """Store the candles of `days` days from FIRST of the config's symbols; `change` may alter those of a day."""
    history = MarketHistory(config)
    chosen = list(symbols or history.symbols)
    dataset = candles(settings.feature_interval)
    async with open_store(settings) as store:
        for symbol in chosen:
            for offset in range(days):
                day = FIRST + offset * DAY
                rows = history.candles(symbol, dataset.interval, day)
                rows = rows if change is None else change(symbol, day, rows)
                async with store.ingest(Partition(dataset.name, symbol, day), replace=True) as ingest:
                    await ingest.append(rows)
                    await ingest.commit()
    with open_instance(settings) as instance:
        add_symbols(instance, chosen)
    return chosen


def after(moment: np.datetime64, factor: float) -> Change:
    """Every price and volume of bars that open at `moment` or later, times `factor` and a little noise."""

    def change(symbol: str, day: date, rows: pa.Table) -> pa.Table:
        late = rows.column("open_time").to_numpy() >= moment
        noise = np.random.default_rng([day.toordinal(), len(symbol)]).uniform(0.99, 1.01, len(late))
        for name in ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_quote_volume"):
            values = rows.column(name).to_numpy() * np.where(late, factor * noise, 1.0)
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(values))
        return rows

    return change
