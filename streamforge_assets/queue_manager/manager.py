"""What clients of the queue-manager can do: begin a pipeline, look at it, follow it, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime

from resources.datasets import DAY, candles
from resources.errors import Rejected, Unavailable
from resources.metrics import STREAMS, Meter
from resources.settings import Settings
from resources.store.port import Store
from streamforge_assets.queue_manager.description import Description
from streamforge_assets.queue_manager.keeper import Keeper
from streamforge_assets.queue_manager.listing import Listing
from streamforge_assets.queue_manager.pipeline import (
    ENDED,
    ID_PATTERN,
    PIPELINE_STOPS,
    PIPELINES,
    Pipeline,
    PipelineState,
    PipelineView,
    new_pipeline,
    read_pipelines,
    view_of,
)
from streamforge_assets.queue_manager.plan import plan_stages
from streamforge_assets.queue_manager.port import Dagster
from streamforge_assets.workflow import overview
from streamforge_assets.workflow.states import Workflow

MOST_LIVE = 50
MOST_STREAMS = 64
LOOK = 1.0
SEEN_FOR = 0.5
READY_FOR = 2.0
READY_LIMIT = 5.0


class Unknown(Rejected):
    """There is no pipeline of that id."""


class Over(Rejected):
    """The pipeline has ended; it cannot be stopped any more."""


class Busy(Unavailable):
    """As much as is allowed is going on already; later there may be room."""


class Manager:
    """The queue-manager without its HTTP.

    Args:
        settings: of the platform.
        store: keeps the pipelines, the ledger and the workers' workflows.
        dagster: makes the assets.
        keeper: advances what is begun here.
        listing: knows the exchange's symbols.
        meter: counts who follows.
        closing: set when the queue-manager is about to end, which ends what follows a pipeline.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        dagster: Dagster,
        keeper: Keeper,
        listing: Listing,
        meter: Meter,
        *,
        closing: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._store = store
        self._dagster = dagster
        self._keeper = keeper
        self._listing = listing
        self._meter = meter
        self._closing = closing
        self._streams = 0
        self._seen: tuple[float, list[Workflow]] = (float("-inf"), [])
        self._asked: tuple[float, Unavailable | Rejected | None] = (float("-inf"), None)
        self._looking, self._asking, self._beginning = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()

    async def begin(self, description: Description) -> PipelineView:
        """Begin a pipeline. When this returns, it is in the store and goes on whatever happens to us.

        Raises:
            Rejected: it cannot be done as described, Dagster lacks one of its assets, or the exchange one of the
                symbols. An exchange that does not say stops nobody: its archive may serve. A warning tells.
            Busy: MOST_LIVE pipelines are under way.
            Unavailable: Dagster or the store does not answer; nothing was begun.
        """
        wanted = description.completed(self._settings)
        request = wanted.request(self._settings)
        unasked = await self._listing.check(wanted.symbols) if "load" in wanted.stages else ""
        async with self._beginning:
            if self._keeper.live >= MOST_LIVE:
                raise Busy(f"{MOST_LIVE} workflows are under way already; wait for one to end, or stop one")
            dataset = candles(self._settings.feature_interval).name
            before = await self._store.ledger(dataset, start=request.start - DAY, end=request.start)
            stages = plan_stages(wanted, request, self._settings, cold=not before)
            assets = [target.asset for stage in stages for target in stage.targets]
            await self._dagster.check(list(dict.fromkeys(assets)))
            pipeline = new_pipeline(wanted, stages, warnings=[unasked] if unasked else [])
            await self._store.put_document(PIPELINES, pipeline.id, pipeline.model_dump(mode="json"))
            self._keeper.take(pipeline)
        return await self._shown(pipeline)

    async def listed(self, state: PipelineState | None, limit: int) -> list[PipelineView]:
        """The newest `limit` pipelines, the newest first; only those in `state` where one is given."""
        known = read_pipelines(await self._store.documents(PIPELINES))
        shown: list[PipelineView] = []
        for pipeline in sorted(known, key=lambda one: one.created_at, reverse=True):
            if len(shown) >= limit:
                break
            if state in {None, "stopping", pipeline.state}:
                view = await self._shown(pipeline)
                shown += [view] if state in {None, view.state} else []
        return shown

    async def view(self, identity: str) -> PipelineView:
        """One pipeline with the workers' workflows. Raises Unknown when there is none."""
        return await self._shown(await self._found(identity))

    async def stop(self, identity: str, *, by: str) -> PipelineView:
        """Have a pipeline stopped: its backfill is cancelled and its workflows end. What was stored stays.

        The wish is durable: it is granted even if Dagster answers only later.

        Raises:
            Unknown: there is none.
            Over: it has ended.
        """
        pipeline = await self._found(identity)
        if pipeline.over:
            raise Over(f"{identity} is over already: it is {pipeline.state}")
        wish = {"by": by, "at": datetime.now(UTC).isoformat()}
        await self._store.put_document(PIPELINE_STOPS, identity, wish)
        self._keeper.wake()
        return await self._shown(pipeline)

    async def follow(self, identity: str) -> AsyncGenerator[PipelineView | None]:
        """Give the pipeline now and whenever it changes, None every LOOK seconds without a change.

        Ends after the pipeline's last state, or when the queue-manager ends. Its caller is inside a `stream`.
        """
        last: PipelineView | None = None
        while not self._closing.is_set():
            view = await self.view(identity)
            yield view if view != last else None
            if view.state in ENDED:
                return
            last = view
            waiting = asyncio.create_task(self._closing.wait())
            try:
                await asyncio.wait({waiting}, timeout=LOOK)
            finally:
                waiting.cancel()

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Count one more follower while inside. Raises Busy beyond MOST_STREAMS."""
        if self._streams >= MOST_STREAMS:
            raise Busy(f"{MOST_STREAMS} clients follow events already; ask for the workflow itself now and then")
        self._streams += 1
        self._meter.set(STREAMS, self._streams)
        try:
            yield
        finally:
            self._streams -= 1
            self._meter.set(STREAMS, self._streams)

    async def ready(self) -> None:
        """Return if pipelines can be begun; an answer counts for READY_FOR seconds.

        Raises:
            Unavailable: Dagster or the store does not answer, or the queue-manager is about to end.
            Rejected: what answers is no Dagster.
        """
        if self._closing.is_set():
            raise Unavailable("the queue-manager is about to end")
        async with self._asking:
            if time.monotonic() - self._asked[0] > READY_FOR:
                fault: Unavailable | Rejected | None = None
                try:
                    await self._dagster.check(timeout=READY_LIMIT)
                    await self._store.document(PIPELINES, "")
                except (Unavailable, Rejected) as error:
                    fault = error
                self._asked = (time.monotonic(), fault)
        if self._asked[1] is not None:
            raise Unavailable(str(self._asked[1]))

    async def _found(self, identity: str) -> Pipeline:
        document = await self._store.document(PIPELINES, identity) if re.match(ID_PATTERN, identity) else None
        if document is None:
            raise Unknown(f"there is no workflow {identity[:60]!r}; GET /workflows lists those there are")
        return Pipeline.model_validate(document)

    async def _shown(self, pipeline: Pipeline) -> PipelineView:
        stopping = not pipeline.over and await self._store.document(PIPELINE_STOPS, pipeline.id) is not None
        workflows = await self._workflows()
        return view_of(pipeline, workflows, stopping=stopping, dagster_url=self._dagster.url)

    async def _workflows(self) -> list[Workflow]:
        """The workers' workflows, read at most once in SEEN_FOR seconds however many clients look."""
        async with self._looking:
            if time.monotonic() - self._seen[0] >= SEEN_FOR:
                self._seen = (time.monotonic(), await overview.workflows(self._store))
            return self._seen[1]
