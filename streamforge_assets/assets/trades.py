"""The asset `market/trades`."""

from collections.abc import Iterator

import dagster as dg

from resources.datasets import TRADES
from resources.settings import Settings
from streamforge_assets.assets.market_data import (
    BACKFILL,
    GROUP,
    CollectConfig,
    check_specs,
    collect_asset,
)
from streamforge_assets.assets.session import Session
from streamforge_assets.partitions import market

KEY = dg.AssetKey([GROUP, TRADES.name])


def trades_asset(settings: Settings) -> dg.AssetsDefinition:
    """Aggregate trades by day and symbol: every id that the exchange has, or a failed partition."""

    @dg.asset(
        key=KEY,
        group_name=GROUP,
        partitions_def=market(settings),
        backfill_policy=BACKFILL,
        output_required=False,
        check_specs=check_specs(TRADES, KEY),
        kinds={"parquet"},
        # Trades come before candles within a run: they explain candles that are absent.
        op_tags={"dagster/priority": "1"},
        description="Aggregate trades of one symbol on one UTC day, complete by trade id.",
    )
    def trades(
        context: dg.AssetExecutionContext, config: CollectConfig, session: dg.ResourceParam[Session]
    ) -> Iterator[dg.AssetCheckResult]:
        yield from collect_asset(context, TRADES, session, config)

    return trades
