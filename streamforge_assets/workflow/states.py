"""A workflow: its id, its state and its document in the store."""

from __future__ import annotations

import secrets
from datetime import UTC, date, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from resources.datasets import Dataset

WORKFLOWS = "workflows"
"""The store's collection of workflow documents."""

State = Literal["pending", "running", "finished", "failed", "cancelled"]


class Workflow(BaseModel):
    """One request for a dataset of a symbol over days [start, end), as `workflows/<queue_id>` keeps it."""

    model_config = ConfigDict(frozen=True)

    queue_id: str
    dataset: str
    symbol: str
    start: date
    end: date
    collection: str
    state: State = "pending"
    records: int = 0
    attempts: dict[str, int] = {}
    message: str = ""
    created_at: datetime
    updated_at: datetime

    def moved(self, **changes: Any) -> Workflow:
        """The same workflow after `changes`, dated now."""
        return self.model_copy(update={**changes, "updated_at": datetime.now(UTC)})


def new_suffix() -> str:
    """Six random hexadecimal digits, which tell workflows and workers of one name apart."""
    return secrets.token_hex(3)


def new_workflow(dataset: Dataset, symbol: str, start: date, end: date, template: str) -> Workflow:
    """A pending workflow with a fresh id, such as `wf-btcusdt-api_candles_5m-20240801-a1b2c3`."""
    now = datetime.now(UTC)
    lower = symbol.lower()
    collection = template.format(
        symbol=lower, type=dataset.api_type, start=start.isoformat().replace("-", "_"), end=end.isoformat()
    )
    return Workflow(
        queue_id=f"wf-{lower}-{dataset.api_type}-{start:%Y%m%d}-{new_suffix()}",
        dataset=dataset.name,
        symbol=symbol,
        start=start,
        end=end,
        collection=collection,
        created_at=now,
        updated_at=now,
    )
