"""The sensor `self_healing`: what a lost coordinator leaves behind is ended, and its days are asked for again.

What lost workers leave behind is removed: data topics of workflows that are over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from resources.bus.port import Bus
from resources.datasets import DAY
from resources.errors import StreamForgeError, Unavailable
from resources.metrics import HEALING_PAGE, write_page
from resources.settings import Settings
from resources.store import open_store
from resources.store.port import Store
from sensors.documents import parse_workflows
from sensors.healing_plan import HealingPlan, healing_meter, plan_healing
from sensors.leftovers import SweepPlan, plan_sweep
from sensors.outside import BUDGET, bus_of, run_until
from streamforge_assets.partitions import SYMBOLS, market_asset_key, market_key
from streamforge_assets.workflow.healing import policy_of
from streamforge_assets.workflow.states import STOP_REQUESTS, WORKFLOWS, Workflow
from streamforge_assets.workflow.takeover import left_alone, tell_workers_to_stop

HEALS_TAG: Final = "streamforge/heals"
"""The tag of a run that heals: the queue_id of the workflow whose days it brings."""

SECOND_LOOK: Final = 5.0
"""Seconds in which a coordinator that lives after all shows it: a machine that slept wakes everything at once."""

BY: Final = "self_healing"

SHOWN: Final = 5
"""How many topics of no known workflow are named; all are counted."""


def self_healing(settings: Settings, assets: Sequence[dg.AssetsDefinition]) -> dg.SensorDefinition:
    """Heal workflows whose coordinator is gone, such as after a `kill -9` of the Dagster run.

    A tick ends those that have shown no sign of life for a minute, and show none while it waits: their workers are
    told to stop, and the document keeps the loss in its history. It asks for a run of their days when the policy
    (the coordinator's own) allows, and leaves to a person what has failed too often in a row. The new run goes on
    from what is stored.

    It removes data topics of workflows that finished or were cancelled some minutes ago. Their coordinator did so,
    unless it was gone; but a worker that hung, was replaced and woke up afterwards makes the topic anew with what
    it publishes. Topics of failed workflows stay, and so do those of no workflow at all, which are only named.

    A document that cannot be read is named and passed over.

    Safe to repeat: decisions rest on the workflows' documents alone, and a run is asked for under a key of its
    workflow's, which Dagster starts once. Should the old coordinator wake up, it finds a request to stop. There is
    no cursor that could be lost. While bus or store cannot be reached, the tick skips with the reason; where only
    topics cannot be removed, it says so and heals all the same.
    """

    @dg.sensor(
        name="self_healing",
        asset_selection=dg.AssetSelection.assets(*[asset.key for asset in assets]),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends workflows whose Dagster run is gone, asks for a new run of their days, and removes"
        " topics that are left of workflows.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        deadline = time.monotonic() + BUDGET
        return tick(context, settings, deadline)

    return sensor


def tick(
    context: dg.SensorEvaluationContext, settings: Settings, deadline: float
) -> dg.SensorResult | dg.SkipReason:
    """One tick: look at all workflows, decide, end what is lost, remove what is left, ask for runs."""
    try:
        plan, unreadable = run_until(deadline, _heal(settings))
    except Unavailable as error:
        return dg.SkipReason(f"{error}; healing goes on at the next tick")
    for complaint in unreadable:
        context.log.warning(complaint)
    for one in plan.ended:
        context.log.warning(f"{one.queue_id}: {one.message}")
    for one in plan.noted:
        context.log.info(f"{one.queue_id}: {_news(one)}")
    swept = _tidy(context, settings, deadline)
    symbols = set(context.instance.get_dynamic_partitions(SYMBOLS.name or ""))
    datasets = {dataset.name for dataset in settings.market_datasets}
    possible = [one for one in plan.reruns if one.dataset in datasets and one.symbol in symbols]
    for one in plan.reruns:
        if one not in possible:
            context.log.warning(f"{one.queue_id}: {one.dataset} of {one.symbol} is no asset's partition any more")
    if not possible:
        waiting = f", {len(plan.waiting)} wait for their next start" if plan.waiting else ""
        return dg.SkipReason(f"{len(plan.ended)} workflows were ended{waiting}{swept}")
    return dg.SensorResult(run_requests=[run_request(one) for one in possible])


def run_request(workflow: Workflow) -> dg.RunRequest:
    """The run that brings a workflow's days; the same request whenever it is made."""
    last = workflow.end - DAY
    return dg.RunRequest(
        run_key=f"heal:{workflow.queue_id}",
        asset_selection=[market_asset_key(workflow.dataset)],
        tags={
            "dagster/asset_partition_range_start": market_key(workflow.start, workflow.symbol),
            "dagster/asset_partition_range_end": market_key(last, workflow.symbol),
            HEALS_TAG: workflow.queue_id,
        },
    )


async def end_workflow(store: Store, bus: Bus, workflow: Workflow, *, by: str) -> None:
    """Write a workflow's last document, and stop whatever may still work on it.

    Its workers are told to. Its coordinator, should it live after all, finds the request to stop.
    """
    await store.put_document(STOP_REQUESTS, workflow.queue_id, {"by": by, "at": time.time()})
    await tell_workers_to_stop(bus, workflow)
    await store.put_document(WORKFLOWS, workflow.queue_id, workflow.model_dump(mode="json"))


def _tidy(context: dg.SensorEvaluationContext, settings: Settings, deadline: float) -> str:
    """Remove what is left of workflows that are over, and say so; what the tick's result tells of it."""
    try:
        plan = run_until(deadline, sweep(settings, now=datetime.now(UTC)))
    except StreamForgeError as error:
        context.log.warning(f"{error}; data topics that are left are removed at a later tick")
        return ""
    for topic, owner in plan.leftovers:
        context.log.warning(f"removed the topic {topic}, left of a workflow that is {owner.state}")
    if plan.strangers:
        shown = ", ".join(plan.strangers[:SHOWN]) + (", ..." if len(plan.strangers) > SHOWN else "")
        context.log.info(f"{len(plan.strangers)} data topics are of no workflow in this store, and stay: {shown}")
    return f", {len(plan.leftovers)} data topics were removed" if plan.leftovers else ""


async def sweep(settings: Settings, *, now: datetime) -> SweepPlan:
    """Remove the data topics of workflows that are over, and return what was decided about all."""
    async with bus_of(settings) as bus:
        topics = await bus.topics()  # before the documents: a workflow has its document before its topic
        async with open_store(settings) as store:
            documents = await store.documents(WORKFLOWS)
        known, _ = parse_workflows(documents)
        plan = plan_sweep(topics, known, [str(one.get("queue_id")) for one in documents], now=now)
        for topic, _ in plan.leftovers:
            await bus.delete(topic)
        return plan


async def _heal(settings: Settings) -> tuple[HealingPlan, list[str]]:
    async with open_store(settings) as store:
        known, unreadable = parse_workflows(await store.documents(WORKFLOWS))
        plan = plan_healing(known, policy_of(settings), now=datetime.now(UTC))
        if plan.ended:
            await asyncio.sleep(SECOND_LOOK)
            plan = replace(plan, ended=await _end(settings, store, plan.ended))
        for one in plan.noted:
            await store.put_document(WORKFLOWS, one.queue_id, one.model_dump(mode="json"))
        changed = {one.queue_id: one for one in (*plan.ended, *plan.noted)}
        write_page(
            healing_meter([changed.get(one.queue_id, one) for one in known]),
            settings.home / HEALING_PAGE,
        )
        return plan, unreadable


async def _end(settings: Settings, store: Store, found: Sequence[Workflow]) -> list[Workflow]:
    """End those of `found` whose coordinator still shows no sign of life, and return them."""
    ended: list[Workflow] = []
    async with bus_of(settings) as bus:
        for one in found:
            document = await store.document(WORKFLOWS, one.queue_id)
            if document is not None and left_alone(Workflow.model_validate(document), now=one.updated_at):
                await end_workflow(store, bus, one, by=BY)
                ended.append(one)
    return ended


def _news(workflow: Workflow) -> str:
    healed = workflow.history[-1].healed_in
    return workflow.message if healed is None else f"healed after {healed:.1f} s"
