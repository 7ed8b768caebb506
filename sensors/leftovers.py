"""Data topics that are left of workflows: which of them are swept away, decided without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from streamforge_assets.workflow.states import DATA_PREFIX, DATA_SUFFIX, State, Workflow

GRACE: Final = timedelta(minutes=5)
"""How long after the end of its workflow a data topic is let be: until then its coordinator may still tidy up."""

SWEPT: Final[frozenset[State]] = frozenset({"finished", "cancelled"})
"""The topics of failed workflows stay, for whoever looks for the cause."""

AT_ONCE: Final = 20
"""Topics that one tick removes at most; the next ones go on."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What is left.

    Attributes:
        leftovers: topics to remove, each with the workflow whose end has made it useless.
        strangers: data topics of which no workflow is known. They stay: brokers may be shared with another
            StreamForge, whose workflows are in another store.
    """

    leftovers: Sequence[tuple[str, Workflow]]
    strangers: Sequence[str]


def plan_sweep(
    topics: Iterable[str], known: Iterable[Workflow], queue_ids: Iterable[str], *, now: datetime
) -> SweepPlan:
    """Decide about every data topic.

    Args:
        topics: all that exist. They must have been listed before the workflows were, else one that began between
            would pass for a stranger.
        known: all workflows whose documents can be read.
        queue_ids: of all workflows. The topic of one that cannot be read stays, and is no stranger.
        now: the present moment.
    """
    owners = {workflow.data_topic: workflow for workflow in known}
    unsure = {f"{queue_id}{DATA_SUFFIX}" for queue_id in queue_ids}
    data = [name for name in sorted(topics) if name.startswith(DATA_PREFIX) and name.endswith(DATA_SUFFIX)]
    leftovers = [(name, owners[name]) for name in data if name in owners and _is_over(owners[name], now)]
    strangers = [name for name in data if name not in owners and name not in unsure]
    return SweepPlan(leftovers[:AT_ONCE], strangers)


def _is_over(workflow: Workflow, now: datetime) -> bool:
    return workflow.state in SWEPT and now - workflow.updated_at > GRACE
