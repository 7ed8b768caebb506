"""The assets `market/trades` and `market/candles_<interval>`: collect, report each partition, name the holes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import Field

from resources.datasets import Dataset, Partition
from resources.ledger import LedgerEntry
from resources.settings import Settings
from streamforge_assets.assets.session import Session
from streamforge_assets.partitions import (
    MARKET,
    VERSION,
    market,
    market_asset_key,
    market_key,
    parse_market_keys,
)
from streamforge_assets.workflow.collection import Collected, collect_partitions
from streamforge_assets.workflow.examination import Examination, examine
from streamforge_assets.workflow.platform import Platform

# One run a symbol for a month keeps a backfill to a handful of runs and bounds what an interrupted one
# has to look at again.
BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=31)

BACKFILL_TAG = "dagster/backfill"
"""The tag by which Dagster tells of which backfill a run is part."""


class CollectConfig(dg.Config):
    """How a run of a market asset collects."""

    refresh: bool = Field(
        default=False, description="compare stored days with the exchange and load what has changed"
    )
    accept_gaps_by: str = Field(
        default="", description="name of whoever accepts holes that the exchange cannot fill; empty: nobody"
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    collected: Collected
    examination: Examination | None


def market_asset(settings: Settings, dataset: Dataset) -> dg.AssetsDefinition:
    """One dataset by day and symbol: every row that the exchange has, or the holes named."""
    key = market_asset_key(dataset.name)

    @dg.asset(
        key=key,
        group_name=MARKET,
        partitions_def=market(settings),
        backfill_policy=BACKFILL,
        output_required=False,
        check_specs=_check_specs(dataset, key),
        kinds={"parquet"},
        # Trades come before candles within a run: they explain candles that are absent.
        op_tags={} if dataset.interval else {"dagster/priority": "1"},
        description=_describe(dataset),
    )
    def collect(
        context: dg.AssetExecutionContext, config: CollectConfig, session: dg.ResourceParam[Session]
    ) -> Iterator[dg.AssetCheckResult]:
        yield from _collect(context, dataset, session, config)

    return collect


def _describe(dataset: Dataset) -> str:
    if dataset.interval:
        return f"Candles of {dataset.interval} of one symbol on one UTC day, complete by open time."
    return "Aggregate trades of one symbol on one UTC day, complete by trade id."


def _collect(
    context: dg.AssetExecutionContext, dataset: Dataset, session: Session, config: CollectConfig
) -> Iterator[dg.AssetCheckResult]:
    """Collect every partition of the run and tell Dagster what became of each.

    Materialisations are logged one by one and the step has no output. An output would materialise all
    partitions of the run or, if one fails, none of them; and its metadata would be checked against the
    whole range again for each partition, which costs more than the collecting.

    Raises:
        dg.Failure: when partitions could not be completed. Those that could are recorded first.
    """
    partitions = parse_market_keys(dataset.name, context.partition_keys)
    run_id, backfill = context.run.run_id, context.run.tags.get(BACKFILL_TAG, "")

    async def work(platform: Platform) -> list[_Seen]:
        collected = await collect_partitions(
            platform,
            dataset,
            partitions,
            refresh=config.refresh,
            accepted_by=config.accept_gaps_by,
            run_id=run_id,
            backfill=backfill,
        )
        return [
            _Seen(item, None if item.failure else await examine(platform.store, item.partition))
            for item in collected
        ]

    with session.platform() as opened:
        seen = opened.run(work)
    session.collected.extend(item.collected for item in seen)
    failed = [item.collected for item in seen if item.collected.failure]
    for item in seen:
        if not item.collected.failure:
            key = _key(item.collected.partition)
            context.log_event(dg.AssetMaterialization(context.asset_key, metadata=_metadata(item), partition=key))
    yield from _checks(dataset, seen)
    if not failed:
        return
    raise dg.Failure(
        description=f"{len(failed)} of {len(seen)} partitions are not complete; {_first(failed)}",
        metadata={_key(item.partition): item.failure for item in failed[:50]},
        allow_retries=False,
    )


def _check_specs(dataset: Dataset, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks that travel with a market asset's materialisation."""
    return [
        dg.AssetCheckSpec(name, asset=key, description=text, blocking=name == "complete")
        for name, text in _check_texts(dataset).items()
    ]


def _check_texts(dataset: Dataset) -> dict[str, str]:
    texts = {
        "complete": "nothing is missing without an explanation",
        "ordered_and_unique": "rows are in order and none stands twice",
    }
    if dataset.interval:
        texts["ohlc_sane"] = "prices are positive, high is highest, low is lowest, volume is not negative"
        texts["agrees_with_trades"] = "candles equal those rebuilt from the stored trades, exactly"
    else:
        texts["agrees_with_candles"] = "stored candles equal those rebuilt from the trades, exactly"
    return texts


def _checks(dataset: Dataset, seen: Sequence[_Seen]) -> list[dg.AssetCheckResult]:
    findings: dict[str, dict[str, str]] = {name: {} for name in _check_texts(dataset)}
    agreement = "agrees_with_trades" if dataset.interval else "agrees_with_candles"
    compared = 0
    for item in seen:
        key = _key(item.collected.partition)
        if item.collected.failure:
            findings["complete"][key] = item.collected.failure
        if item.examination is None:
            continue
        if item.examination.order_faults:
            findings["ordered_and_unique"][key] = "; ".join(item.examination.order_faults[:3])
        if item.examination.candle_faults:
            findings["ohlc_sane"][key] = "; ".join(item.examination.candle_faults[:3])
        for result in item.examination.agreements.values():
            compared += result.compared
            if result.differing:
                findings[agreement][key] = "; ".join(result.differences[:3])
    return [_check(name, found, seen, compared if name == agreement else None) for name, found in findings.items()]


def _check(name: str, found: dict[str, str], seen: Sequence[_Seen], compared: int | None) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {
        "partitions": f"{_key(seen[0].collected.partition)} to {_key(seen[-1].collected.partition)}",
        "partitions_failed": len(found),
    }
    if compared is not None:
        metadata["candles_compared"] = compared
    metadata |= dict(list(found.items())[:20])
    return dg.AssetCheckResult(passed=not found, check_name=name, metadata=metadata)


def _metadata(item: _Seen) -> dict[str, Any]:
    entry = item.collected.entry
    if entry is None or item.examination is None:
        return {}
    return {
        "dagster/row_count": entry.rows,
        "missing": entry.missing_count,
        "explained": entry.explained_count,
        "source": entry.source,
        "bytes": entry.bytes,
        VERSION: entry.version,
        "seconds": round(entry.seconds, 3),
        "first": str(entry.first_time or ""),
        "last": str(entry.last_time or ""),
        "proof": _proof(entry),
        "accepted_by": entry.accepted_by or "nobody",
        "picture": dg.MetadataValue.md(item.examination.picture),
    }


def _proof(entry: LedgerEntry) -> str:
    if entry.start_proof == "not needed":
        return "the interval's grid"
    return f"ids are consecutive; start: {entry.start_proof}, end: {entry.end_proof}"


def _key(partition: Partition) -> str:
    return market_key(partition.day, partition.symbol)


def _first(failed: Sequence[Collected]) -> str:
    return "; ".join(f"{item.partition}: {item.failure}" for item in failed[:3])
