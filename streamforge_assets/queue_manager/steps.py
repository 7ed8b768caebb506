"""One step of a pipeline: launch a stage, look how far it is, judge how it ended, or stop it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from resources.bus.port import Bus
from resources.datasets import days
from resources.errors import Rejected
from resources.metrics import BACKFILLS, Meter
from resources.store.port import Store
from streamforge_assets.queue_manager.pipeline import PIPELINE_STOPS, Pipeline, Stage
from streamforge_assets.queue_manager.port import Dagster
from streamforge_assets.remote_dagster import RemoteProgress
from streamforge_assets.request import parse_day
from streamforge_assets.workflow import overview
from streamforge_assets.workflow.collection import describe_holes
from streamforge_assets.workflow.states import OVER
from streamforge_assets.workflow.takeover import LEFT_ALONE, left_alone

PIPELINE_TAG = "streamforge/pipeline"
STAGE_TAG = "streamforge/stage"

WORKFLOWS_LEFT = LEFT_ALONE + 15.0
"""Seconds that a stop waits, once the backfill has ended, for its workflows to end or to count as left alone."""

LONGEST_CAUSE = 600

Save = Callable[[Pipeline], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps, with what they need. `save` makes the pipeline's new state durable before a step goes on."""

    store: Store
    bus: Bus
    dagster: Dagster
    meter: Meter
    save: Save

    async def take(self, pipeline: Pipeline) -> None:
        """Take the pipeline one step further.

        Raises:
            Unavailable: something outside does not answer; the same step may be taken again.
            Rejected: Dagster refuses.
        """
        wish = await self.store.document(PIPELINE_STOPS, pipeline.id)
        stage = pipeline.current
        if wish is not None:
            await self._stop(pipeline, stage, str(wish.get("by", "somebody")))
        elif stage is None:
            await self.save(pipeline.ended("finished", ""))
        elif stage.name == "store":
            await self._prove(pipeline, stage)
        elif stage.backfill:
            await self._follow(pipeline, stage)
        else:
            await self._launch(pipeline, stage)

    async def _launch(self, pipeline: Pipeline, stage: Stage) -> None:
        """Launch the stage's backfill, or find the one that was launched before somebody could note it."""
        tags = {PIPELINE_TAG: pipeline.id, STAGE_TAG: stage.name}
        backfill = None
        if stage.started_at is None:
            stage = stage.moved(state="running", started_at=datetime.now(UTC))
            pipeline = pipeline.with_stage(stage, state="running", message="")
            await self.save(pipeline)
        else:
            backfill = await self.dagster.find(tags, since=stage.started_at)
        if backfill is None:
            wanted = pipeline.description
            title = f"{pipeline.id} {stage.name}: {', '.join(wanted.symbols)} {wanted.start} to {wanted.end}"
            config = {"refresh": wanted.refresh, "accept_gaps_by": ""}
            backfill = await self.dagster.launch_targets(stage.targets, title=title, tags=tags, config=config)
            self.meter.add(BACKFILLS, 1, stage.name)
        await self.save(pipeline.with_stage(stage.moved(backfill=backfill), message=""))

    async def _follow(self, pipeline: Pipeline, stage: Stage) -> None:
        progress = await self.dagster.progress(stage.backfill)
        stage = stage.moved(**_counts(progress))
        if not progress.ended:
            await self.save(pipeline.with_stage(stage, message=""))
            return
        missing = stage.targeted - stage.done
        if progress.status == "CANCELED":
            sentence = f"the backfill {stage.backfill} was cancelled in Dagster"
            await self.save(pipeline.with_stage(stage.ended("cancelled", sentence)).ended("cancelled", sentence))
        elif progress.status == "FAILED" or progress.error or missing > 0:
            why = progress.error.splitlines()[0] if progress.error else await self._cause(stage.backfill)
            counted = f"{missing} of {stage.targeted} partitions were not made"
            where = f"see the backfill {stage.backfill} at {self.dagster.url}"
            sentence = "; ".join(part for part in (counted, why, where) if part)
            serious = progress.status == "FAILED" or bool(progress.error)
            await self._ended_with_gaps(pipeline, stage, sentence, serious=serious)
        else:
            await self.save(pipeline.with_stage(stage.ended("finished"), message=""))

    async def _cause(self, backfill: str) -> str:
        """What one of its runs failed of, short enough for a message."""
        try:
            cause = await self.dagster.cause(backfill)
        except Rejected:  # the failure is certain, whatever Dagster says of its cause
            return ""
        return cause if len(cause) <= LONGEST_CAUSE else f"{cause[:LONGEST_CAUSE]}..."

    async def _prove(self, pipeline: Pipeline, stage: Stage) -> None:
        """Look every partition up in the ledger: a stored day counts when nothing is missing without a cause."""
        wanted = pipeline.description
        first, after = parse_day(wanted.start), parse_day(wanted.end)
        begun = stage.moved(state="running", started_at=stage.started_at or datetime.now(UTC))
        complete, faults = 0, list[str]()
        for dataset in wanted.datasets:
            for symbol in wanted.symbols:
                entries = {entry.day: entry for entry in await self.store.ledger(dataset, symbol, first, after)}
                for day in days(first, after):
                    entry = entries.get(day)
                    holes = describe_holes(entry) if entry else "nothing is stored"
                    complete += not holes
                    faults += [f"{dataset} {symbol} {day}: {holes}"] if holes else []
        begun = begun.moved(targeted=complete + len(faults), done=complete, failed=len(faults))
        if faults:
            sentence = f"{len(faults)} of {begun.targeted} partitions are not complete in the store; {faults[0]}"
            await self._ended_with_gaps(pipeline.moved(state="running"), begun, sentence, serious=False)
        else:
            await self.save(pipeline.with_stage(begun.ended("finished"), state="running", message=""))

    async def _ended_with_gaps(self, pipeline: Pipeline, stage: Stage, sentence: str, *, serious: bool) -> None:
        tolerated = pipeline.description.tolerate_gaps and stage.name in {"load", "store"} and not serious
        if tolerated:
            await self.save(pipeline.with_stage(stage.ended("finished", sentence), message=""))
        else:
            message = f"the stage {stage.name} failed: {sentence}"
            await self.save(pipeline.with_stage(stage.ended("failed", sentence)).ended("failed", message))

    async def _stop(self, pipeline: Pipeline, stage: Stage | None, by: str) -> None:
        """Cancel the backfill, wait until it has ended and its workflows too, then end the pipeline."""
        if stage is None or stage.started_at is None:
            await self.save(pipeline.ended("cancelled", f"stopped by {by}"))
            return
        halted = stage if stage.name == "store" else await self._halted(pipeline, stage)
        if halted is not None:
            last = pipeline.with_stage(halted.ended("cancelled", f"stopped by {by}"))
            await self.save(last.ended("cancelled", f"stopped by {by}; what was stored stays"))

    async def _halted(self, pipeline: Pipeline, stage: Stage) -> Stage | None:
        """The stage once its backfill and its workflows have ended; None, and they are asked to, before."""
        backfill = stage.backfill
        if not backfill and stage.started_at is not None:
            tags = {PIPELINE_TAG: pipeline.id, STAGE_TAG: stage.name}
            backfill = await self.dagster.find(tags, since=stage.started_at) or ""
        if backfill:
            progress = await self.dagster.progress(backfill)
            stage = stage.moved(backfill=backfill, **_counts(progress))
            if not progress.ended:
                await self.save(pipeline.with_stage(stage, message="stops: its backfill is being cancelled"))
                if progress.status != "CANCELING":
                    await self.dagster.cancel(backfill)
                return None
        now = datetime.now(UTC)
        stage = stage.moved(ended_at=stage.ended_at or now)
        left = await self._stop_left_alone(pipeline.with_stage(stage), now)
        waited = (now - (stage.ended_at or now)).total_seconds()
        message = f"stops: {left} of its workflows still run" if left else ""
        await self.save(pipeline.with_stage(stage, message=message))
        return stage if not left or waited > WORKFLOWS_LEFT else None

    async def _stop_left_alone(self, pipeline: Pipeline, now: datetime) -> int:
        """Tell the workers of workflows that lost their coordinator to stop; gives how many others still run.

        Live coordinators end by themselves: Dagster has interrupted them. One that goes on works for others.
        """
        left = 0
        for workflow in await overview.workflows(self.store):
            if workflow.state in OVER or not pipeline.owns(workflow):
                continue
            if left_alone(workflow, now=now):
                by = f"the stop of {pipeline.id}"
                await overview.stop(self.store, self.bus, workflow, by=by, patience=0)
            else:
                left += 1
        return left


def _counts(progress: RemoteProgress) -> dict[str, Any]:
    return {"targeted": progress.targeted, "done": progress.materialized, "failed": progress.failed}
