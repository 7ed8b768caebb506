"""Workflows whose coordinator is gone: how that is known, and how whoever does their work anew ends them."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from functools import cache

import psutil

from resources.bus.port import Bus, Message
from resources.datasets import parse_dataset
from resources.messages import CONTROL_TOPIC, ControlMessage, encode
from resources.store.port import Store
from streamforge_assets.workflow.states import OVER, TARGETS, WORKFLOWS, Workflow

LEFT_ALONE = 60.0
"""Seconds without a sign of its coordinator after which a workflow counts as left alone. A live coordinator writes
every few seconds; its longest silence is a wait before a worker's next start."""


@cache
def this_process() -> str:
    """Names this process among all of all machines: its host, its id, and when it began."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def left_alone(workflow: Workflow, *, now: datetime) -> bool:
    """Whether a workflow that is not over has lost its coordinator."""
    if workflow.state in OVER:
        return False
    return _is_gone(workflow.coordinator) or (now - workflow.updated_at).total_seconds() > LEFT_ALONE


def _is_gone(coordinator: str) -> bool:
    """Whether the coordinator's process is known to have ended; only its own machine can know."""
    host, _, rest = coordinator.partition("/")
    number, _, began = rest.partition("/")
    if host != socket.gethostname() or not number:
        return False
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" != began
    except psutil.NoSuchProcess:
        return True


async def take_over(store: Store, bus: Bus, workflow: Workflow) -> None:
    """End every workflow that was left alone with days of `workflow`, which loads what they have not stored.

    Workers of theirs that still live are told to stop; their data topics are deleted.
    """
    for document in await store.documents(WORKFLOWS):
        if document.get("state") in OVER or document.get("symbol") != workflow.symbol:
            continue
        old = Workflow.model_validate(document)
        same = old.dataset == workflow.dataset and old.start < workflow.end and workflow.start < old.end
        if same and old.queue_id != workflow.queue_id and left_alone(old, now=datetime.now(UTC)):
            await tell_workers_to_stop(bus, old)
            await bus.delete(old.data_topic)
            message = f"its coordinator was gone; {workflow.queue_id} took over"
            await store.put_document(
                WORKFLOWS, old.queue_id, old.moved(state="cancelled", message=message).model_dump(mode="json")
            )


async def tell_workers_to_stop(bus: Bus, workflow: Workflow) -> None:
    """Publish the command `stop` to whatever workers of `workflow` there are."""
    commands = [
        ControlMessage(
            command="stop",
            queue_id=workflow.queue_id,
            target=target,
            symbol=workflow.symbol,
            type=parse_dataset(workflow.dataset).api_type,
        )
        for target in TARGETS
    ]
    await bus.publish(CONTROL_TOPIC, [Message(encode(command), workflow.queue_id) for command in commands])
