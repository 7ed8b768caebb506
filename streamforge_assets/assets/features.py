"""The asset `analysis/features`: what is known of every symbol at the end of each bar of a day."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import dagster as dg

from resources.datasets import DAY
from resources.settings import Settings
from streamforge_assets.assets.daily import BACKFILL, Made, check_specs, make_days
from streamforge_assets.assets.session import Session
from streamforge_assets.market.features import WARM_UP_DAYS
from streamforge_assets.market.panel import Panel
from streamforge_assets.modelling.panels import features_of_day, publish_features, read_bars
from streamforge_assets.modelling.storage import Storage
from streamforge_assets.partitions import SYMBOLS, dates

FEATURES_KEY = dg.AssetKey(["analysis", "features"])
CHECKS = {"coverage": "every symbol has at least 95 % of the day's bars, or the share in the settings"}


def features_asset(settings: Settings, market: Sequence[dg.AssetKey]) -> dg.AssetsDefinition:
    """Features of all symbols by day. `market` are the assets of candles and trades that it follows.

    The numbers come from the candles alone: their taker volumes are the sums of the trades, exactly, which the
    checks of the market assets prove where both are stored.
    """
    by_date = dg.MultiToSingleDimensionPartitionMapping("date")

    @dg.asset(
        key=FEATURES_KEY,
        group_name="analysis",
        partitions_def=dates(settings),
        deps=[dg.AssetDep(key, partition_mapping=by_date) for key in market],
        backfill_policy=BACKFILL,
        output_required=False,
        check_specs=check_specs(FEATURES_KEY, CHECKS),
        kinds={"numpy", "parquet"},
        description="Causal features of every bar of one UTC day, all symbols: returns, volatility, volume, flow.",
    )
    def features(
        context: dg.AssetExecutionContext, session: dg.ResourceParam[Session]
    ) -> Iterator[dg.AssetCheckResult]:
        wanted = [date.fromisoformat(key) for key in context.partition_keys]
        symbols = sorted(context.instance.get_dynamic_partitions(SYMBOLS.name or ""))
        if not symbols:
            raise dg.Failure(
                "no symbols yet; add some with `streamforge symbols add BTCUSDT`", allow_retries=False
            )
        with session.storage() as opened:
            first, after = wanted[0] - WARM_UP_DAYS * DAY, wanted[-1] + DAY
            bars = opened.run(lambda ports: read_bars(ports.store, ports.dataset, symbols, first, after))

            def make(day: date) -> Made:
                panel = features_of_day(bars, day)

                async def publish(ports: Storage) -> None:
                    await publish_features(ports.artifacts, ports.dataset, day, panel)

                opened.run(publish)
                return _made(panel, settings.model_coverage)

            yield from make_days(context, CHECKS, make)

    return features


def _made(panel: Panel, coverage: float) -> Made:
    share = dict(zip(panel.symbols, panel.coverage.tolist(), strict=True))
    thin = {symbol: has for symbol, has in share.items() if has < coverage}
    metadata: dict[str, Any] = {
        "dagster/row_count": panel.mask.size,
        "symbols": len(panel.symbols),
        "usable": float(panel.mask.mean()),
        "thinnest": ", ".join(f"{symbol} {has:.1%}" for symbol, has in sorted(share.items(), key=_second)[:5]),
        "digest": panel.digest,
    }
    if not thin:
        return Made(metadata)
    names = ", ".join(f"{symbol} {has:.0%}" for symbol, has in sorted(thin.items(), key=_second)[:10])
    cause = " (no earlier day is stored, so that nothing is warm)" if len(thin) == len(share) else ""
    return Made(metadata, {"coverage": f"{len(thin)} symbols have fewer usable bars: {names}{cause}"})


def _second(item: tuple[str, float]) -> float:
    return item[1]
