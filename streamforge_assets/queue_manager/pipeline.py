"""A pipeline on its way: the document in the store, from its description to its end."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamforge_assets.queue_manager.description import Description, StageName
from streamforge_assets.remote_dagster import Target
from streamforge_assets.workflow.overview import shown_state
from streamforge_assets.workflow.states import Workflow

log = logging.getLogger("streamforge.queue_manager")

PIPELINES = "pipelines"
"""The store's collection of pipelines, by id."""

PIPELINE_STOPS = "pipeline-stops"
"""The store's collection of wishes that a pipeline be stopped, by id."""

ID_PATTERN = "^pl-[0-9]{8}-[0-9a-f]{8}$"

PipelineState = Literal["pending", "running", "stopping", "finished", "failed", "cancelled"]
StageState = Literal["pending", "running", "finished", "failed", "cancelled"]

ENDED = frozenset({"finished", "failed", "cancelled"})


class Stage(BaseModel):
    """One stage: what it makes, the backfill that makes it, and how far that is, counted in partitions.

    A stage that runs without a backfill is about to be launched, or was just when the queue-manager ended.
    """

    model_config = ConfigDict(frozen=True)

    name: StageName
    state: StageState = "pending"
    targets: tuple[Target, ...] = Field((), description="assets and their days, first and last included")
    backfill: str = Field("", description="Dagster's id of the backfill; empty before, and for the stage store")
    targeted: int = 0
    done: int = 0
    failed: int = 0
    message: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None

    def moved(self, **changes: Any) -> Stage:
        """The same stage after `changes`."""
        return self.model_copy(update=changes)

    def ended(self, state: StageState, message: str = "") -> Stage:
        """The same stage, ended now."""
        return self.moved(state=state, message=message, ended_at=datetime.now(UTC))


class Pipeline(BaseModel):
    """A pipeline, as `pipelines/<id>` keeps it.

    `message` says what ended it, or what it waits for; `warnings` what could not be checked when it was begun.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    state: PipelineState = "pending"
    message: str = ""
    warnings: tuple[str, ...] = ()
    description: Description
    stages: tuple[Stage, ...]
    created_at: datetime
    updated_at: datetime

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    @property
    def current(self) -> Stage | None:
        """The first stage that has not ended."""
        return next((stage for stage in self.stages if stage.state not in ENDED), None)

    def moved(self, **changes: Any) -> Pipeline:
        """The same pipeline after `changes`, dated now; itself where nothing changes."""
        if all(getattr(self, name) == value for name, value in changes.items()):
            return self
        return self.model_copy(update={**changes, "updated_at": datetime.now(UTC)})

    def with_stage(self, stage: Stage, **changes: Any) -> Pipeline:
        """The same pipeline with `stage` in the place of the one of its name."""
        stages = tuple(stage if one.name == stage.name else one for one in self.stages)
        return self.moved(stages=stages, **changes)

    def ended(self, state: PipelineState, message: str) -> Pipeline:
        """The same pipeline, ended; stages that were never begun stay pending."""
        return self.moved(state=state, message=message)

    def owns(self, workflow: Workflow) -> bool:
        """Whether `workflow` does the loading: a run of the backfill of the stage load asked for it."""
        return bool(workflow.backfill) and any(
            stage.name == "load" and stage.backfill == workflow.backfill for stage in self.stages
        )


class WorkflowView(BaseModel):
    """One workflow of the workers: a dataset of a symbol over days [start, end)."""

    queue_id: str
    dataset: str
    symbol: str
    start: date
    end: date
    state: str = Field(description="as `streamforge workflows list` shows it")
    records: int
    healed: int = Field(description="workers that had to be replaced")
    message: str
    updated_at: datetime


class StageView(Stage):
    """A stage as clients see it."""

    url: str = Field("", description="the backfill's page in Dagster's web UI")


class PipelineView(BaseModel):
    """A pipeline as clients see it."""

    id: str
    state: PipelineState
    message: str = Field(description="what ended it, or what it waits for")
    warnings: tuple[str, ...] = Field(description="what could not be checked when it was begun")
    description: Description
    stages: tuple[StageView, ...]
    created_at: datetime
    updated_at: datetime
    workflows: tuple[WorkflowView, ...] = Field(description="the workers' workflows of the stage load")


def new_pipeline(description: Description, stages: Sequence[Stage], *, warnings: Sequence[str] = ()) -> Pipeline:
    """A pending pipeline with a fresh id, such as `pl-20240801-a1b2c3d4`."""
    now = datetime.now(UTC)
    identity = f"pl-{description.start.replace('-', '')}-{secrets.token_hex(4)}"
    return Pipeline(
        id=identity,
        warnings=tuple(warnings),
        description=description,
        stages=tuple(stages),
        created_at=now,
        updated_at=now,
    )


def read_pipelines(documents: Sequence[Mapping[str, Any]]) -> list[Pipeline]:
    """The pipelines of these documents. One that cannot be read is logged and left out, not to stop the rest."""
    found: list[Pipeline] = []
    for document in documents:
        try:
            found.append(Pipeline.model_validate(document))
        except ValidationError as error:
            log.error("the pipeline %s cannot be read and is left alone: %s", document.get("id"), error)
    return found


def view_of(
    pipeline: Pipeline, workflows: Sequence[Workflow], *, stopping: bool, dagster_url: str
) -> PipelineView:
    """What a client is shown. `stopping`: somebody wants it stopped."""
    own = tuple(_views(one for one in workflows if pipeline.owns(one)))
    state: PipelineState = "stopping" if stopping and not pipeline.over else pipeline.state
    stages = tuple(
        StageView(**dict(stage), url=f"{dagster_url}/runs/b/{stage.backfill}" if stage.backfill else "")
        for stage in pipeline.stages
    )
    return PipelineView(**{**dict(pipeline), "state": state, "stages": stages, "workflows": own})


def _views(workflows: Iterator[Workflow]) -> Iterator[WorkflowView]:
    now = datetime.now(UTC)
    for one in workflows:
        yield WorkflowView(
            queue_id=one.queue_id,
            dataset=one.dataset,
            symbol=one.symbol,
            start=one.start,
            end=one.end,
            state=shown_state(one, now=now),
            records=one.records,
            healed=sum(item.healed_in is not None for item in one.history),
            message=one.message,
            updated_at=one.updated_at,
        )
