"""The routes. docs/queue-manager.md describes them for people, /openapi.json for programs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from resources.errors import StreamForgeError
from resources.metrics import HEALING_METRICS, Meter, registry_of, show_page
from streamforge_assets.queue_manager.description import Description
from streamforge_assets.queue_manager.guard import OPEN_ROUTES, Guard
from streamforge_assets.queue_manager.manager import Manager
from streamforge_assets.queue_manager.pipeline import ENDED, PipelineState, PipelineView
from streamforge_assets.queue_manager.problems import Problem, documented, tell_problems

HEARTBEAT = 15.0
OVER_EVENT = "over"
EVENT_STREAM = "text/event-stream"

Identity = Annotated[str, Path(max_length=100, description="id of a workflow, such as pl-20240801-a1b2c3d4")]


class PipelineList(BaseModel):
    """Workflows, the newest first."""

    workflows: list[PipelineView]


class Health(BaseModel):
    """Whether the queue-manager lives, or can be given work."""

    status: str


def build_app(manager: Manager, meter: Meter, *, token: str | None, healing: FilePath) -> FastAPI:
    """The queue-manager's HTTP face.

    Args:
        manager: does what is asked.
        meter: counts requests; shown at /metrics.
        token: what clients must show on every route but the health ones; None: nothing.
        healing: where the sensor `self_healing` writes its metrics, which /metrics shows too.
    """
    app = FastAPI(
        title="StreamForge queue-manager",
        version=version("streamforge"),
        description="The one door for clients that are not Dagster.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    tell_problems(app)
    app.add_middleware(Guard, token=token, meter=meter)
    _add_workflows(app, manager)
    _add_service(app, manager, _registry(meter, healing))
    _describe(app, with_token=token is not None)
    return app


def _add_workflows(app: FastAPI, manager: Manager) -> None:
    @app.post("/workflows", status_code=201, summary="Begin a workflow", responses=documented(400, 413, 422, 503))
    async def begin(description: Description, response: Response) -> PipelineView:
        """Begin the pipeline that the body describes. It goes on by itself, and survives a restart of anything."""
        view = await manager.begin(description)
        response.headers["Location"] = f"/workflows/{view.id}"
        return view

    @app.get("/workflows", summary="List workflows", responses=documented(422, 503))
    async def listed(
        state: Annotated[PipelineState | None, Query(description="only those in this state")] = None,
        limit: Annotated[int, Query(ge=1, le=500, description="only so many, the newest")] = 50,
    ) -> PipelineList:
        """Workflows, the newest first."""
        return PipelineList(workflows=await manager.listed(state, limit))

    @app.get("/workflows/{workflow_id}", summary="Show a workflow", responses=documented(404, 422, 503))
    async def shown(workflow_id: Identity) -> PipelineView:
        """One workflow: its stages, and the workers' workflows with what they have stored."""
        return await manager.view(workflow_id)

    @app.post(
        "/workflows/{workflow_id}/stop",
        status_code=202,
        summary="Stop a workflow",
        responses=documented(404, 409, 422, 503),
    )
    async def stop(workflow_id: Identity) -> PipelineView:
        """Ask for a workflow to be stopped: its backfill is cancelled, its workers end. What was stored stays."""
        return await manager.stop(workflow_id, by="a client of the queue-manager")

    _add_events(app, manager)


def _add_events(app: FastAPI, manager: Manager) -> None:
    @app.get(
        "/workflows/{workflow_id}/events",
        summary="Follow a workflow",
        response_class=StreamingResponse,
        responses={
            200: {"content": {EVENT_STREAM: {}}, "description": "server-sent events"},
            204: {"description": "the client has seen the end already; it shall not connect again"},
            **documented(404, 422, 503),
        },
    )
    async def events(
        workflow_id: Identity, last_event_id: Annotated[str, Header(max_length=100)] = ""
    ) -> Response:
        """Server-sent events: `workflow` with the whole workflow, now and at each change; last of all `over`."""
        await manager.view(workflow_id)
        if last_event_id == OVER_EVENT:
            return Response(status_code=204)
        return _EventStream(manager, workflow_id)


class _EventStream(StreamingResponse):
    """The stream of one client, counted by the manager until it ends, however that happens."""

    def __init__(self, manager: Manager, identity: str) -> None:
        super().__init__(_sent(manager, identity), media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Raises Busy, before anything was sent, when too many follow."""
        with self._manager.stream():
            await super().__call__(scope, receive, send)


async def _sent(manager: Manager, identity: str) -> AsyncIterator[str]:
    number, said = 0, time.monotonic()
    try:
        async with contextlib.aclosing(manager.follow(identity)) as views:
            async for view in views:
                if view is not None:
                    number, said = number + 1, time.monotonic()
                    yield f"event: workflow\nid: {number}\ndata: {view.model_dump_json()}\n\n"
                    if view.state in ENDED:
                        yield f"event: over\nid: {OVER_EVENT}\ndata: {view.state}\n\n"
                elif time.monotonic() - said > HEARTBEAT:
                    said = time.monotonic()
                    yield ": still here\n\n"
    except StreamForgeError as error:
        yield f": {error}\n\n"


def _registry(meter: Meter, healing: FilePath) -> CollectorRegistry:
    registry = registry_of(meter, {})
    show_page(registry, healing, HEALING_METRICS)
    return registry


def _add_service(app: FastAPI, manager: Manager, registry: CollectorRegistry) -> None:
    @app.get("/healthz", summary="Whether it lives")
    async def healthz() -> Health:
        """Answers as long as the process lives. Needs no token."""
        return Health(status="alive")

    @app.get("/readyz", summary="Whether it can be given work", responses=documented(503))
    async def readyz() -> Health:
        """Whether Dagster and the store answer. Needs no token."""
        await manager.ready()
        return Health(status="ready")

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics(_: Request) -> Response:
        """What docs/metrics.md lists."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _describe(app: FastAPI, *, with_token: bool) -> None:
    """Complete the OpenAPI document: the form of problems, and the token where one is asked for."""
    plain = app.openapi

    def whole() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = plain()
        components = schema.setdefault("components", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components["schemas"] |= {**problem.pop("$defs", {}), "Problem": problem}
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
        if with_token:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                for operation in operations.values() if path not in OPEN_ROUTES else ():
                    operation["security"] = [{"token": []}]
                    operation["responses"]["401"] = documented(401)[401]
        return schema

    app.openapi = whole  # type: ignore[method-assign]  # FastAPI's documented way
