"""A workflow: its id, its state and its document in the store."""

from __future__ import annotations

import secrets
from datetime import UTC, date, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from resources.datasets import Dataset

WORKFLOWS = "workflows"
"""The store's collection of workflow documents."""

STOP_REQUESTS = "workflow-stops"
"""The store's collection of wishes that a workflow be stopped, by queue_id; its coordinator looks for them."""

DATA_PREFIX, DATA_SUFFIX = "wf-", "-data"
"""How the name of every workflow's data topic begins and ends; between them is the rest of its queue_id."""

COORDINATOR = "coordinator"
"""The `worker` of an incident that is the loss of the workflow's coordinator."""

TARGETS = ("arango-connector", "loader-producer")
"""The workers of a workflow, as `queue-control` addresses them."""

State = Literal["pending", "running", "finished", "failed", "cancelled"]

OVER: frozenset[State] = frozenset({"finished", "failed", "cancelled"})
"""The states that a workflow does not leave any more."""


class Incident(BaseModel):
    """A worker that had to be replaced, or could not be any more.

    Attributes:
        at: when it was noticed.
        worker: its telemetry_id.
        attempt: the number of its start.
        cause: why, in one sentence.
        healed_in: seconds until its successor reported; None where there is none, or not yet.
    """

    model_config = ConfigDict(frozen=True)

    at: datetime
    worker: str
    attempt: int
    cause: str
    healed_in: float | None = None


class Workflow(BaseModel):
    """One request for a dataset of a symbol over days [start, end), as `workflows/<queue_id>` keeps it.

    `run_id` is the Dagster run that asked for it and materialises what it brings, and `backfill` the backfill that
    the run is part of; each is empty where there is none.
    `coordinator` names the process that runs it, as `takeover.this_process` does. `events_from` are the offsets of
    `queue-events` before its first event.
    """

    model_config = ConfigDict(frozen=True)

    queue_id: str
    run_id: str = ""
    backfill: str = ""
    dataset: str
    symbol: str
    start: date
    end: date
    collection: str
    state: State = "pending"
    records: int = 0
    attempts: dict[str, int] = {}
    coordinator: str = ""
    events_from: dict[int, int] = {}
    message: str = ""
    history: tuple[Incident, ...] = ()
    created_at: datetime
    updated_at: datetime

    @property
    def data_topic(self) -> str:
        """The topic of its rows, from its loader to its connector."""
        return f"{self.queue_id}{DATA_SUFFIX}"

    def moved(self, **changes: Any) -> Workflow:
        """The same workflow after `changes`, dated now."""
        return self.model_copy(update={**changes, "updated_at": datetime.now(UTC)})

    def healed(self, worker: str, seconds: float) -> Workflow:
        """The same workflow once a successor of `worker` has reported."""
        history = tuple(
            item.model_copy(update={"healed_in": round(seconds, 3)}) if item.worker == worker else item
            for item in self.history
        )
        return self.model_copy(update={"history": history})


def new_suffix() -> str:
    """Six random hexadecimal digits, which tell workflows and workers of one name apart."""
    return secrets.token_hex(3)


def new_workflow(
    dataset: Dataset,
    symbol: str,
    start: date,
    end: date,
    template: str,
    *,
    run_id: str = "",
    backfill: str = "",
) -> Workflow:
    """A pending workflow with a fresh id, such as `wf-btcusdt-api_candles_5m-20240801-a1b2c3`."""
    now = datetime.now(UTC)
    lower = symbol.lower()
    collection = template.format(
        symbol=lower, type=dataset.api_type, start=start.isoformat().replace("-", "_"), end=end.isoformat()
    )
    return Workflow(
        queue_id=f"wf-{lower}-{dataset.api_type}-{start:%Y%m%d}-{new_suffix()}",
        run_id=run_id,
        backfill=backfill,
        dataset=dataset.name,
        symbol=symbol,
        start=start,
        end=end,
        collection=collection,
        created_at=now,
        updated_at=now,
    )
