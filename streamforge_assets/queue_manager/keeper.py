"""The one background task: takes every pipeline that is not over a step further, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from resources.bus.port import Bus
from resources.errors import StreamForgeError, Unavailable
from resources.metrics import FAULTS, LIVE, Meter
from resources.store.port import Store
from streamforge_assets.queue_manager.pipeline import PIPELINE_STOPS, PIPELINES, Pipeline, read_pipelines
from streamforge_assets.queue_manager.port import Dagster
from streamforge_assets.queue_manager.steps import Steps

log = logging.getLogger("streamforge.queue_manager")

POLL = 2.0
LONGEST_PAUSE = 30.0
AT_ONCE = 4
STEP_LIMIT = 300.0
MOST_FAULTS = 3
"""Steps in a row that Dagster refuses, or that fail for no known reason, before their pipeline fails."""


class Keeper:
    """Advances pipelines, a few at once, each step under a time limit. It alone changes a pipeline once made.

    What a step has reached is in the store before the next one begins, so that another keeper, after this one has
    ended at whatever moment, goes on from there and launches nothing twice. Run one keeper for one store.

    Args:
        store: keeps the pipelines.
        bus: reaches workers whose coordinator is gone.
        dagster: makes the assets.
        meter: counts what happens.
        poll: seconds between rounds.
    """

    def __init__(self, store: Store, bus: Bus, dagster: Dagster, meter: Meter, *, poll: float = POLL) -> None:
        self._store = store
        self._dagster = dagster
        self._meter = meter
        self._poll = poll
        self._steps = Steps(store, bus, dagster, meter, self._save)
        self._live: dict[str, Pipeline] = {}
        self._faults: dict[str, int] = {}
        self._woken = asyncio.Event()
        self._loaded = False

    @property
    def live(self) -> int:
        """Pipelines that are not over."""
        return len(self._live)

    def take(self, pipeline: Pipeline) -> None:
        """Look after a new pipeline, which the store holds already."""
        self._live[pipeline.id] = pipeline
        self._meter.set(LIVE, len(self._live))
        self.wake()

    def wake(self) -> None:
        """Begin the next round now."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; a step that runs then is given up, and done again by the next keeper."""
        ending = asyncio.create_task(stop.wait())
        try:
            pause = self._poll
            while not stop.is_set():
                self._woken.clear()
                work = asyncio.create_task(self.round())
                await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
                if stop.is_set():
                    await _given_up(work)
                    return
                pause = self._poll if work.result() else min(pause * 2, LONGEST_PAUSE)
                woken = asyncio.create_task(self._woken.wait())
                await asyncio.wait({woken, ending}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                await _given_up(woken)
        finally:
            await _given_up(ending)

    async def round(self) -> bool:
        """Take every live pipeline one step further; tells whether something outside answered."""
        try:
            await self._load()
        except StreamForgeError as error:
            log.warning("pipelines cannot be read: %s", error)
            return False
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(pipeline: Pipeline) -> bool:
            async with limit:
                return await self._advance(pipeline)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(pipeline)) for pipeline in list(self._live.values())]
        return not tasks or any(task.result() for task in tasks)

    async def _load(self) -> None:
        if self._loaded:
            return
        for pipeline in read_pipelines(await self._store.documents(PIPELINES)):
            if not pipeline.over:
                self._live.setdefault(pipeline.id, pipeline)
        self._meter.set(LIVE, len(self._live))
        self._loaded = True

    async def _advance(self, pipeline: Pipeline) -> bool:
        """Do one step, whatever happens; tells whether something outside answered."""
        try:
            async with asyncio.timeout(STEP_LIMIT):
                await self._steps.take(pipeline)
        except (Unavailable, TimeoutError) as error:
            cause = str(error) or f"a step took longer than {STEP_LIMIT:g} s"
            await self._noted(pipeline.id, "unavailable", f"waits: {cause}")
            return False
        except StreamForgeError as error:
            await self._faulty(pipeline.id, "refused", str(error))
        except Exception as error:
            log.exception("%s: a step failed", pipeline.id)
            await self._faulty(pipeline.id, "internal", f"the queue-manager failed: {type(error).__name__}")
        else:
            self._faults.pop(pipeline.id, None)
        return True

    async def _faulty(self, identity: str, cause: str, sentence: str) -> None:
        count = self._faults[identity] = self._faults.get(identity, 0) + 1
        if count < MOST_FAULTS:
            await self._noted(identity, cause, f"tried again: {sentence}")
            return
        self._meter.add(FAULTS, 1, cause)
        pipeline = self._live[identity]
        stage = pipeline.current
        if stage is not None and stage.state == "running":
            pipeline = pipeline.with_stage(stage.ended("failed", sentence))
        with contextlib.suppress(StreamForgeError):  # a store that is away: the next round repeats all of it
            await self._save(pipeline.ended("failed", sentence))

    async def _noted(self, identity: str, cause: str, message: str) -> None:
        """Have the pipeline say what it waits for."""
        self._meter.add(FAULTS, 1, cause)
        log.warning("%s %s", identity, message)
        with contextlib.suppress(StreamForgeError):
            await self._save(self._live[identity].moved(message=message))

    async def _save(self, pipeline: Pipeline) -> None:
        before = self._live.get(pipeline.id)
        if before == pipeline:
            return
        await self._store.put_document(PIPELINES, pipeline.id, pipeline.model_dump(mode="json"))
        if not pipeline.over:
            self._live[pipeline.id] = pipeline
            if before is not None and _at(before) != _at(pipeline):
                self.wake()  # what comes next need not wait for the next round
            return
        await self._store.delete_document(PIPELINE_STOPS, pipeline.id)
        del self._live[pipeline.id]
        self._faults.pop(pipeline.id, None)
        self._meter.set(LIVE, len(self._live))
        log.info("%s is %s %s", pipeline.id, pipeline.state, pipeline.message)


def _at(pipeline: Pipeline) -> str:
    """The stage that a pipeline is at; empty once all have ended."""
    return pipeline.current.name if pipeline.current is not None else ""


async def _given_up(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
