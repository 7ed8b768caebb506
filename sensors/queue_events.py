"""The sensor `queue_events`: what workers report becomes what Dagster knows of the market assets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

import dagster as dg

from resources.bus.port import Gap
from resources.datasets import DAY, Partition
from resources.errors import Rejected, Unavailable
from resources.ledger import LedgerEntry
from resources.messages import EVENTS_TOPIC
from resources.settings import Settings
from resources.store import open_store
from resources.store.port import Store
from sensors.cursor import Place, next_cursor, parse_cursor
from sensors.documents import parse_workflows
from sensors.outside import BUDGET, bus_of, run_until
from sensors.plan import Known, TickPlan, candidates, plan_tick
from sensors.tally import Tally
from streamforge_assets.partitions import SYMBOLS, VERSION, market_asset_key, market_key
from streamforge_assets.workflow.states import WORKFLOWS, Workflow

STREAM: Final = dg.AssetKey(["streams", EVENTS_TOPIC.replace("-", "_")])
"""The asset on which the sensor says how the stream itself does."""

ROOM: Final = 100
"""Asset partitions that one tick reports on: each costs Dagster a transaction, some 10 to 50 ms."""

_READING_SHARE: Final = 0.6
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class _Read:
    """What one tick has read, and from where."""

    tally: Tally
    ends: dict[int, int]
    gaps: tuple[Gap, ...]
    workflows: dict[str, Workflow]
    entries: dict[Partition, LedgerEntry]
    complaints: list[str]


def stream_asset() -> dg.AssetSpec:
    """The stream of events, as an external asset without partitions: only observed, so that it starts no work."""
    return dg.AssetSpec(
        STREAM,
        group_name="streams",
        description="What workers report. Each observation tells the lag, the rate, and what could not be read.",
    )


def queue_events(settings: Settings) -> dg.SensorDefinition:
    """Turn `queue-events` into materialisations and observations of the market assets.

    A tick reads on from its cursor, without a consumer group, for at most 20 s and no further than where the topic
    ended when the tick began. It tells Dagster one event for each asset partition: a materialisation when a
    workflow without a Dagster run of its own has brought the day and the ledger says that nothing is missing,
    else an observation with lag, rows and totals. The events' offsets are in the metadata.

    It never pins: a message that cannot be read is counted, named and passed. While bus or store cannot be reached
    it skips with the reason and goes on later where it was; it fails when they refuse it for good.

    A lost or broken cursor costs time, not truth: the messages that the topic still keeps are read again, so
    observations of the last seven days repeat. Nothing is materialised twice, because a materialisation
    carries the version of the data that it speaks of. What the topic no longer keeps stays unseen, and is said.
    """

    @dg.sensor(
        name="queue_events",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells Dagster what workers have written outside its runs, and how they do.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        deadline = time.monotonic() + BUDGET
        return tick(context, settings, deadline)

    return sensor


def tick(
    context: dg.SensorEvaluationContext, settings: Settings, deadline: float
) -> dg.SensorResult | dg.SkipReason:
    """One tick: read, decide, tell."""
    place = parse_cursor(context.cursor, EVENTS_TOPIC)
    try:
        read = run_until(deadline, _read(settings, place, deadline))
    except Unavailable as error:
        return dg.SkipReason(f"{error}; reading goes on where it was")
    plan = plan_tick(
        read.tally,
        _known(context.instance, settings, read),
        ends=read.ends,
        gaps=read.gaps,
        complaints=[place.complaint, *read.complaints],
    )
    for warning in plan.warnings:
        context.log.warning(warning)
    return _told(plan, next_cursor(EVENTS_TOPIC, read.tally.offsets))


async def _read(settings: Settings, place: Place, deadline: float) -> _Read:
    async with bus_of(settings) as bus, bus.replay(EVENTS_TOPIC, place.offsets) as replay:
        tally = Tally(EVENTS_TOPIC, dict(replay.positions), ROOM)
        enough = deadline - (1 - _READING_SHARE) * BUDGET
        whole = True
        while whole and time.monotonic() < enough and (batch := await replay.receive(limit=_BATCH)):
            whole = all(tally.add(delivery) for delivery in batch)
        if whole and tally.lag(replay.positions) == 0:
            tally.offsets |= replay.positions
        ends, gaps = dict(replay.ends), tuple(replay.gaps)
    async with open_store(settings) as store:
        ids = {queue_id for one in tally.sums.values() for queue_id in one.written}
        documents = [await store.document(WORKFLOWS, queue_id) for queue_id in sorted(ids)]
        found, complaints = parse_workflows(document for document in documents if document)
        entries = await _entries(store, candidates(tally), complaints)
        return _Read(tally, ends, gaps, {one.queue_id: one for one in found}, entries, complaints)


async def _entries(
    store: Store, partitions: Sequence[Partition], complaints: list[str]
) -> dict[Partition, LedgerEntry]:
    """The ledger's entries. What the store refuses to tell is left out: it would pin the cursor."""
    days: dict[tuple[str, str], list[date]] = {}
    for partition in partitions:
        days.setdefault((partition.dataset, partition.symbol), []).append(partition.day)
    found: dict[Partition, LedgerEntry] = {}
    for (dataset, symbol), some in days.items():
        try:
            entries = await store.ledger(dataset, symbol, min(some), max(some) + DAY)
        except Rejected as error:
            complaints.append(f"{dataset} of {symbol} is only observed: {error}")
            continue
        found |= {entry.partition: entry for entry in entries}
    return found


def _known(instance: dg.DagsterInstance, settings: Settings, read: _Read) -> Known:
    return Known(
        workflows=read.workflows,
        entries=read.entries,
        versions={
            partition: version
            for partition in candidates(read.tally)
            if (version := materialised_version(instance, partition))
        },
        datasets={dataset.name for dataset in settings.market_datasets},
        symbols=set(instance.get_dynamic_partitions(SYMBOLS.name or "")),
        first_day=settings.first_day,
        today=datetime.now(UTC).date(),
    )


def materialised_version(instance: dg.DagsterInstance, partition: Partition) -> str:
    """The version of the data that the newest materialisation of a partition speaks of; empty without one."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=market_asset_key(partition.dataset),
            asset_partitions=[market_key(partition.day, partition.symbol)],
        ),
        limit=1,
    ).records
    materialisation = records[0].asset_materialization if records else None
    value = materialisation.metadata.get(VERSION) if materialisation else None
    return str(value.value) if value is not None else ""


def _told(plan: TickPlan, cursor: str) -> dg.SensorResult:
    """The plan as Dagster's events, with the stream's own last."""
    events: list[dg.AssetMaterialization | dg.AssetObservation] = [
        (dg.AssetMaterialization if report.materialised else dg.AssetObservation)(
            market_asset_key(report.partition.dataset), metadata=dict(report.metadata), partition=report.key
        )
        for report in plan.reports
    ]
    if not plan.stream:
        return dg.SensorResult(skip_reason=f"nothing new on {EVENTS_TOPIC}", cursor=cursor)
    events.append(dg.AssetObservation(STREAM, metadata=dict(plan.stream)))
    reason = "; ".join(plan.warnings) or f"{plan.stream['messages']} messages read"
    return dg.SensorResult(asset_events=events, skip_reason=reason, cursor=cursor)
