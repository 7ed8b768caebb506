"""The sensors `run_failures` and `run_cancellations`: a run that ends badly takes its workflows with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from resources.settings import Settings
from resources.store import open_store
from sensors.documents import parse_workflows
from sensors.healing_plan import explained, lost
from sensors.outside import BUDGET, bus_of, run_until
from sensors.self_healing import end_workflow
from streamforge_assets.run_cause import run_cause, step_cause
from streamforge_assets.workflow.states import OVER, WORKFLOWS, State, Workflow


def run_failures(settings: Settings) -> dg.SensorDefinition:
    """Stop what a failed run leaves running, and keep the run's cause in the workflows' documents.

    A run that fails by itself ends its workflows itself. This is for one that Dagster found dead: its workflows
    count as having lost their coordinator, so `self_healing` may ask for their days again.

    Raises, and so fails the tick, when bus or store cannot be reached. Dagster goes on with the next run then;
    what this one missed, `self_healing` ends a minute later, without the run's cause.
    """
    description = "Stops the workflows of a failed run and keeps the cause."
    return _run_sensor(settings, "run_failures", dg.DagsterRunStatus.FAILURE, "failed", description)


def run_cancellations(settings: Settings) -> dg.SensorDefinition:
    """Stop what a cancelled run leaves running. Somebody wanted its end, so its days are not asked for again.

    Raises as `run_failures` does.
    """
    description = "Stops the workflows of a cancelled run."
    return _run_sensor(settings, "run_cancellations", dg.DagsterRunStatus.CANCELED, "cancelled", description)


def _run_sensor(
    settings: Settings, name: str, status: dg.DagsterRunStatus, state: State, description: str
) -> dg.SensorDefinition:
    """A sensor that ends the workflows of each run of `status`, as `state`."""

    @dg.run_status_sensor(
        name=name,
        run_status=status,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def sensor(context: dg.RunStatusSensorContext) -> dg.SkipReason | None:
        deadline = time.monotonic() + BUDGET
        ending = end_workflows_of(settings, context.dagster_run.run_id, state, _cause(context))
        return _skip(run_until(deadline, ending))

    return sensor


async def end_workflows_of(settings: Settings, run_id: str, state: State, cause: str) -> list[Workflow]:
    """End the workflows of the run `run_id` that are not over, as `state`, and return them as they now are.

    Those that `self_healing` was quicker to find lost, it knows only to be silent: they are told the cause.
    """
    async with open_store(settings) as store:
        known, _ = parse_workflows(await store.documents(WORKFLOWS))
        mine = [one for one in known if one.run_id == run_id]
        message = f"the run {run_id} {'was cancelled' if state == 'cancelled' else 'failed'}: {cause}"
        for one in filter(None, (explained(one, message) for one in mine)):
            await store.put_document(WORKFLOWS, one.queue_id, one.model_dump(mode="json"))
        running = [one for one in mine if one.state not in OVER]
        if not running:
            return []
        ended = [_ended(one, state, message) for one in running]
        async with bus_of(settings) as bus:
            for one in ended:
                await end_workflow(store, bus, one, by=message)
        return ended


def _ended(workflow: Workflow, state: State, message: str) -> Workflow:
    if state == "failed":
        return lost(workflow, message, now=datetime.now(UTC))
    return workflow.moved(state="cancelled", message=message)


def _skip(ended: Sequence[Workflow]) -> dg.SkipReason | None:
    if not ended:
        return dg.SkipReason("the run left no workflow behind")
    return dg.SkipReason(f"ended {', '.join(one.queue_id for one in ended)}")


def _cause(context: dg.RunStatusSensorContext) -> str:
    """Why the run ended, in one sentence: that of the step that failed, or Dagster's own."""
    for record in context.instance.get_records_for_run(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1
    ).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.is_step_failure and (cause := step_cause(event.step_failure_data)):
            return cause
    return run_cause(context.dagster_event.message or "", _last_word(context))


def _last_word(context: dg.RunStatusSensorContext) -> str:
    """What Dagster has last told of the run itself: how the process that executed it ended."""
    for record in context.instance.get_records_for_run(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=1, ascending=False
    ).records:
        event = record.event_log_entry.dagster_event
        return (event.message if event is not None else None) or ""
    return ""
