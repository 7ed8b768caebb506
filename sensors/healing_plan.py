"""What becomes of workflows whose coordinator is gone: decided by the coordinator's own policy, without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from resources.metrics import HEAL_SECONDS, HEALING_METRICS, HEALS, UNHEALED, Meter
from streamforge_assets.workflow.healing import HealingPolicy
from streamforge_assets.workflow.overview import failures_in_a_row
from streamforge_assets.workflow.states import COORDINATOR, Incident, Workflow
from streamforge_assets.workflow.takeover import left_alone

FORGOTTEN: Final = timedelta(days=1)
"""A loss older than this starts nothing any more: by then somebody has decided otherwise."""

_GONE: Final = "its coordinator was gone"
_QUARANTINE: Final = "only a person starts it again"


@dataclass(frozen=True, slots=True)
class HealingPlan:
    """What to do.

    Attributes:
        ended: workflows as they are once they count as failed; their workers have to be told to stop.
        noted: workflows whose documents have learnt something: that they were healed, or are in quarantine.
        reruns: workflows whose days a run has to bring.
        waiting: workflows that may run again later.
    """

    ended: Sequence[Workflow]
    noted: Sequence[Workflow]
    reruns: Sequence[Workflow]
    waiting: Sequence[Workflow]


def plan_healing(known: Sequence[Workflow], policy: HealingPolicy, *, now: datetime) -> HealingPlan:
    """Decide about every workflow that has lost its coordinator.

    One that counts as left alone fails, with the loss in its history. A failed one that has lost its coordinator
    runs again when the policy says so; after too many failures in a row it is in quarantine; once a later workflow
    works on the same days it is healed. Asking again, before what was decided shows, gives the same decision.

    Args:
        known: all workflows, the newest last.
        policy: of the platform.
        now: the present moment.
    """
    ended = [lost(one, _silence(one, now), now=now) for one in known if left_alone(one, now=now)]
    noted: list[Workflow] = []
    reruns: list[Workflow] = []
    waiting: list[Workflow] = []
    for one in known:
        loss = open_loss(one)
        if loss is None or now - loss.at > FORGOTTEN or one.message.endswith(_QUARANTINE):
            continue
        successor = next((other for other in known if takes_over(other, one)), None)
        if successor is not None:
            seconds = (successor.created_at - loss.at).total_seconds()
            noted.append(one.healed(COORDINATOR, max(seconds, 0.0)))
            continue
        failures = failures_in_a_row(known, one)
        again = policy.runs_again_at(failures)
        if again is None:
            message = f"{one.message}; it failed {len(failures)} times in a row: {_QUARANTINE}"
            noted.append(one.model_copy(update={"message": message}))
        else:
            (reruns if again <= now.timestamp() else waiting).append(one)
    return HealingPlan(ended, noted, reruns, waiting)


def lost(workflow: Workflow, cause: str, *, now: datetime) -> Workflow:
    """The workflow as failed, with the loss of its coordinator in its history."""
    incident = Incident(at=now, worker=COORDINATOR, attempt=1, cause=cause)
    changes = {"state": "failed", "message": cause, "history": (*workflow.history, incident), "updated_at": now}
    return workflow.model_copy(update=changes)


def explained(workflow: Workflow, cause: str) -> Workflow | None:
    """The workflow with `cause` in place of the silence by which its loss was noticed; None for any other."""
    if workflow.state != "failed" or not workflow.history:
        return None
    loss = workflow.history[-1]
    if loss.worker != COORDINATOR or not loss.cause.startswith(_GONE):
        return None
    history = (*workflow.history[:-1], loss.model_copy(update={"cause": cause}))
    message = workflow.message.replace(loss.cause, cause)
    return workflow.model_copy(update={"message": message, "history": history})


def open_loss(workflow: Workflow) -> Incident | None:
    """The loss of a failed workflow's coordinator, while nothing has taken over."""
    if workflow.state != "failed":
        return None
    losses = [one for one in workflow.history if one.worker == COORDINATOR]
    return losses[-1] if losses and losses[-1].healed_in is None else None


def takes_over(other: Workflow, workflow: Workflow) -> bool:
    """Whether `other` is a later workflow that brings all days of `workflow`."""
    same = (other.dataset, other.symbol) == (workflow.dataset, workflow.symbol)
    # Not later than the loss: somebody may have started it again before the loss was noticed.
    later = other.created_at > workflow.created_at
    return same and later and other.start <= workflow.start and other.end >= workflow.end


def healing_meter(known: Sequence[Workflow]) -> Meter:
    """What the documents say of all healing, of workers and of coordinators, as metrics."""
    meter = Meter(HEALING_METRICS)
    for workflow in known:
        for incident in workflow.history:
            target = incident.worker.partition("__")[0]
            if incident.healed_in is not None:
                meter.add(HEALS, 1, target)
                meter.add(HEAL_SECONDS, incident.healed_in, target)
            elif workflow.state == "failed":
                meter.add(UNHEALED, 1, target)
    return meter


def _silence(workflow: Workflow, now: datetime) -> str:
    seconds = (now - workflow.updated_at.astimezone(UTC)).total_seconds()
    return f"{_GONE}: no sign of life for {seconds:.0f} s"
