"""Workflows seen from outside: which there are, what they say, and how one is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from resources.bus.port import Bus
from resources.errors import Rejected
from resources.messages import EVENTS_TOPIC, EventMessage, decode_event
from resources.store.port import Store
from streamforge_assets.workflow.states import OVER, STOP_REQUESTS, WORKFLOWS, Workflow
from streamforge_assets.workflow.takeover import LEFT_ALONE, left_alone, tell_workers_to_stop

POLL = 0.2


def shown_state(workflow: Workflow, *, now: datetime) -> str:
    """The state of a workflow; `left alone` when it should run and its coordinator shows no sign of life."""
    return "left alone" if left_alone(workflow, now=now) else workflow.state


async def workflows(store: Store) -> list[Workflow]:
    """Every workflow, the newest last."""
    found = [Workflow.model_validate(document) for document in await store.documents(WORKFLOWS)]
    return sorted(found, key=lambda workflow: workflow.created_at)


async def find(store: Store, queue_id: str) -> Workflow:
    """The workflow whose id is `queue_id`, or alone ends with it.

    Raises:
        Rejected: there is none, or more than one.
    """
    document = await store.document(WORKFLOWS, queue_id)
    if document is not None:
        return Workflow.model_validate(document)
    matching = [workflow for workflow in await workflows(store) if workflow.queue_id.endswith(queue_id)]
    if len(matching) == 1 and queue_id:
        return matching[0]
    if matching and queue_id:
        raise Rejected(f"{queue_id} is the end of {len(matching)} workflows; give the whole id")
    raise Rejected(f"there is no workflow {queue_id}; `streamforge workflows list` shows those there are")


async def events(bus: Bus, workflow: Workflow, *, limit: int) -> list[EventMessage]:
    """The newest `limit` events of a workflow, the newest last."""
    found: list[EventMessage] = []
    async with bus.replay(EVENTS_TOPIC, workflow.events_from) as messages:
        while batch := await messages.receive(limit=5000):
            for delivery in batch:
                if delivery.message.key in {"", workflow.queue_id}:
                    with contextlib.suppress(Rejected):  # the coordinator reports what cannot be read
                        event = decode_event(delivery.message.value)
                        found += [event] if event.queue_id == workflow.queue_id else []
    return found[-limit:]


def failures_in_a_row(known: Sequence[Workflow], workflow: Workflow) -> list[float]:
    """When workflows with the work of `workflow` failed since one of them last finished (seconds since the epoch).

    Args:
        known: all workflows, the newest last.
        workflow: whose dataset, symbol and days are meant.
    """

    def work(one: Workflow) -> tuple[object, ...]:
        return (one.dataset, one.symbol, one.start, one.end)

    failures: list[float] = []
    for other in known:
        if work(other) == work(workflow):
            if other.state == "finished":
                failures.clear()
            elif other.state == "failed":
                failures.append(other.updated_at.timestamp())
    return failures


async def stop(store: Store, bus: Bus, workflow: Workflow, *, by: str, patience: float = LEFT_ALONE) -> Workflow:
    """Have a workflow stopped and return it as it ended. What it has stored stays.

    Its coordinator does it. Where that shows no sign of life, the workers are told directly, and the document says
    so.

    Args:
        store: keeps the workflow.
        bus: reaches its workers.
        workflow: which.
        by: who asks; the workflow's message names it.
        patience: seconds without a sign of the coordinator after which it is done without.

    Raises:
        Rejected: the workflow is over.
    """
    if workflow.state in OVER:
        raise Rejected(f"{workflow.queue_id} is over already: it {_ended(workflow)}")
    await store.put_document(STOP_REQUESTS, workflow.queue_id, {"by": by, "at": time.time()})
    while workflow.state not in OVER:
        now = datetime.now(UTC)
        if (now - workflow.updated_at).total_seconds() > patience or left_alone(workflow, now=now):
            return await _stop_without_coordinator(store, bus, workflow, by)
        await asyncio.sleep(POLL)
        workflow = await find(store, workflow.queue_id)
    return workflow


async def _stop_without_coordinator(store: Store, bus: Bus, workflow: Workflow, by: str) -> Workflow:
    await tell_workers_to_stop(bus, workflow)
    message = f"stopped by {by}; its coordinator was gone"
    workflow = workflow.moved(state="cancelled", message=message)
    await store.put_document(WORKFLOWS, workflow.queue_id, workflow.model_dump(mode="json"))
    await store.delete_document(STOP_REQUESTS, workflow.queue_id)
    return workflow


def _ended(workflow: Workflow) -> str:
    return {"finished": "finished", "failed": "failed", "cancelled": "was cancelled"}[workflow.state]
