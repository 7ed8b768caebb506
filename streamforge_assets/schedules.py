"""What runs by the clock."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import dagster as dg

from streamforge_assets.partitions import SYMBOLS, market_key


def daily_market_data(assets: Sequence[dg.AssetsDefinition]) -> dg.ScheduleDefinition:
    """Every night, collect the day that has just ended for every symbol, one run a symbol.

    Half an hour after midnight UTC the day is over on the exchange; REST serves it until the archive does.
    """

    @dg.schedule(
        name="daily_market_data",
        cron_schedule="30 0 * * *",
        execution_timezone="UTC",
        target=list(assets),
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def daily(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        symbols = context.instance.get_dynamic_partitions(SYMBOLS.name or "")
        if not symbols:
            yield dg.SkipReason("no symbols yet; add some with `streamforge symbols add BTCUSDT`")
        day = (context.scheduled_execution_time - timedelta(days=1)).date()
        for symbol in symbols:
            yield dg.RunRequest(run_key=f"{day}|{symbol}", partition_key=market_key(day, symbol))

    return daily


def daily_models(assets: Sequence[dg.AssetsDefinition]) -> dg.ScheduleDefinition:
    """Every night, once the day's data are in: its features, graph and model, and forecasts by the model before.

    Two hours after the market data, which a slow night may need; a symbol that is late then is left out.
    """

    @dg.schedule(
        name="daily_models",
        cron_schedule="30 2 * * *",
        execution_timezone="UTC",
        target=list(assets),
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = (context.scheduled_execution_time - timedelta(days=1)).date().isoformat()
        return dg.RunRequest(run_key=day, partition_key=day)

    return daily
