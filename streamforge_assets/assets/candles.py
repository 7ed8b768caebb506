"""The assets `market/candles_<interval>`."""

from collections.abc import Iterator

import dagster as dg

from resources.datasets import candles
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


def candles_asset(settings: Settings, interval: str) -> dg.AssetsDefinition:
    """Candles of one interval by day and symbol: every candle of the grid, or the proof that none exists."""
    dataset = candles(interval)
    key = dg.AssetKey([GROUP, dataset.name])

    @dg.asset(
        key=key,
        group_name=GROUP,
        partitions_def=market(settings),
        backfill_policy=BACKFILL,
        output_required=False,
        check_specs=check_specs(dataset, key),
        kinds={"parquet"},
        description=f"Candles of {interval} of one symbol on one UTC day, complete by open time.",
    )
    def collect(
        context: dg.AssetExecutionContext, config: CollectConfig, session: dg.ResourceParam[Session]
    ) -> Iterator[dg.AssetCheckResult]:
        yield from collect_asset(context, dataset, session, config)

    return collect
