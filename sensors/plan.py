"""What a tick of `queue_events` tells Dagster: decided from what was read and what is known, without I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from resources.bus.port import Gap
from resources.datasets import Partition
from resources.ledger import LedgerEntry
from sensors.tally import Sum, Tally
from streamforge_assets.partitions import VERSION, market_key
from streamforge_assets.workflow.states import Workflow

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Known:
    """What the outside world says about what was read.

    Attributes:
        workflows: by queue_id; those without a document are left out.
        entries: ledger entries of the partitions that have a true one.
        versions: of the data that Dagster's newest materialisation of a partition speaks of.
        datasets: that are assets.
        symbols: that are partitions.
        first_day: of the partitions; the last is the one before `today`.
    """

    workflows: Mapping[str, Workflow]
    entries: Mapping[Partition, LedgerEntry]
    versions: Mapping[Partition, str]
    datasets: Collection[str]
    symbols: Collection[str]
    first_day: date
    today: date

    def is_asset_partition(self, partition: Partition) -> bool:
        """Whether there is such a partition of such an asset."""
        named = partition.dataset in self.datasets and partition.symbol in self.symbols
        return named and self.first_day <= partition.day < self.today


@dataclass(frozen=True, slots=True)
class Report:
    """One event for Dagster: a materialisation, or else an observation."""

    partition: Partition
    materialised: bool
    metadata: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The partition's key in Dagster."""
        return market_key(self.partition.day, self.partition.symbol)


@dataclass(frozen=True, slots=True)
class TickPlan:
    """What one tick reports.

    Attributes:
        reports: one for each asset partition.
        stream: metadata of the stream's own observation; empty where there is nothing to say.
        warnings: sentences that must be seen.
    """

    reports: Sequence[Report]
    stream: Mapping[str, Any]
    warnings: Sequence[str] = field(default=())


def plan_tick(
    tally: Tally, known: Known, *, ends: Mapping[int, int], gaps: Sequence[Gap], complaints: Sequence[str]
) -> TickPlan:
    """Decide what to tell Dagster.

    A partition is materialised when an event says that a workflow without a Dagster run has written it, the ledger
    says that nothing is missing, and Dagster's newest materialisation speaks of other data. All else is observed.
    Telling twice changes nothing: the second time, Dagster's newest materialisation speaks of the same data.

    Args:
        tally: what was read.
        known: what the outside world says about it.
        ends: where the topic ended.
        gaps: messages that are gone unread.
        complaints: what else must be seen, such as why reading did not go on where it was; empty ones are not.
    """
    mine = {part: one for part, one in sorted(tally.sums.items()) if known.is_asset_partition(part)}
    strangers = [str(partition) for partition in sorted(tally.sums) if partition not in mine]
    reports = [_report(tally.topic, partition, one, known) for partition, one in mine.items()]
    warnings = [*filter(None, complaints), *map(str, gaps), *_trouble(tally, strangers)]
    if not (tally.messages or warnings):
        return TickPlan(reports, {})
    stream = {**_of_stream(tally, ends), "lost": sum(gap.lost for gap in gaps)}
    if warnings:
        stream["warnings"] = "\n".join(warnings)
    return TickPlan(reports, stream, warnings)


def candidates(tally: Tally) -> list[Partition]:
    """The partitions of which an event says that they were written."""
    return sorted(partition for partition, one in tally.sums.items() if one.written)


def _trouble(tally: Tally, strangers: Sequence[str]) -> list[str]:
    """Sentences about messages that are passed over."""
    found: list[str] = []
    if tally.broken:
        more = f"; and {tally.broken - len(tally.named)} more" if tally.broken > len(tally.named) else ""
        found.append(f"{tally.broken} messages cannot be read: {'; '.join(tally.named)}{more}")
    if strangers:
        found.append(f"{len(strangers)} partitions are of no asset: {', '.join(strangers[:SHOWN])}")
    return found


def _of_stream(tally: Tally, ends: Mapping[int, int]) -> dict[str, Any]:
    starts = {partition: tally.start.get(partition, 0) for partition in tally.offsets}
    read = {partition: (starts[partition], end - 1) for partition, end in tally.offsets.items()}
    shown: dict[str, Any] = {
        "topic": tally.topic,
        **_spans({partition: span for partition, span in read.items() if span[0] <= span[1]}),
        "messages": tally.messages,
        "lag": tally.lag(ends),
        "broken": tally.broken,
        "without_partition": tally.others,
    }
    if tally.rate is not None:
        shown["messages_per_second"] = round(tally.rate, 3)
    return shown


def _report(topic: str, partition: Partition, one: Sum, known: Known) -> Report:
    entry = known.entries.get(partition)
    reason = _why_not(one, entry, partition, known)
    metadata: dict[str, Any] = {
        "topic": topic,
        **_spans(one.spans),
        "events": one.events,
        "rows_written": one.rows,
        "workflows": ", ".join(sorted(one.queue_ids)[:SHOWN]),
    }
    if one.lag is not None:
        metadata["lag"] = one.lag
    if one.last is not None:
        metadata |= {
            "status": one.last.status,
            "message": one.last.message,
            "records_total": one.last.records_written,
        }
    if one.failures:
        metadata["failures"] = "; ".join(one.failures[:SHOWN])
    if reason or entry is None:
        return Report(partition, False, metadata | {"not_materialised": reason})
    return Report(partition, True, metadata | _of_entry(entry))


def _why_not(one: Sum, entry: LedgerEntry | None, partition: Partition, known: Known) -> str:
    """Why the partition is only observed; empty when it is materialised."""
    if not one.written:
        return "no event says that it was written"
    outside = [queue_id for queue_id in one.written if not _run_of(queue_id, known)]
    if not outside:
        return f"the run {_run_of(min(one.written), known)} that asked for it does that"
    if entry is None:
        return "the ledger does not know it, or not as it is stored"
    if not entry.complete:
        return f"{entry.missing_count} records are missing without an explanation"
    if entry.version and known.versions.get(partition) == entry.version:
        return "it was materialised as it is stored"
    return ""


def _run_of(queue_id: str, known: Known) -> str:
    workflow = known.workflows.get(queue_id)
    return workflow.run_id if workflow else ""


def _of_entry(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "dagster/row_count": entry.rows,
        "missing": entry.missing_count,
        "explained": entry.explained_count,
        "source": entry.source,
        "bytes": entry.bytes,
        "first": str(entry.first_time or ""),
        "last": str(entry.last_time or ""),
        "accepted_by": entry.accepted_by or "nobody",
        VERSION: entry.version,
    }


def _spans(spans: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    """Partitions of the topic, and first and last offset of each: numbers, or texts where there are several."""
    if len(spans) == 1:
        ((partition, (first, last)),) = spans.items()
        return {"partition": partition, "offset_start": first, "offset_end": last}
    ordered = sorted(spans.items())
    return {
        "partition": ",".join(str(partition) for partition, _ in ordered),
        "offset_start": ",".join(str(first) for _, (first, _) in ordered),
        "offset_end": ",".join(str(last) for _, (_, last) in ordered),
    }
