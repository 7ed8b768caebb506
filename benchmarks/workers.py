"""Worker processes on one broker of its own: how soon they start, how fast they store, how much they hold."""

from __future__ import annotations

import asyncio
import random
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet

from benchmarks.made import trades
from benchmarks.result import Result, python_start
from resources.bus import Message, Subscription, open_bus
from resources.datasets import DAY, TRADES
from resources.launcher.port import WorkerSpec
from resources.launcher.process import ProcessLauncher
from resources.messages import CONTROL_TOPIC, EVENTS_TOPIC, ControlMessage, EventMessage, decode_event, encode
from resources.pages import DayReport, day_message, encode_pages, end_message
from resources.settings import Settings
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.registry import TARGETS
from tests.chaos.load import Load
from tests.chaos.stage import Size, Stage, open_stage

START_TARGET = 2.0
STARTS = 20
DRAIN_TARGET = 0.3e6
DRAIN_ROWS = 3_000_000
DRAIN_DAYS = 6
MEMORY_TARGET = 400.0
STALLED = 10.0
SYMBOL = "BTCUSDT"
WHEN = date(2024, 8, 1)
DEADLINE = 120.0
LARGE_DAYS = Size(scale=30.0, days=8, kills=0, pause=0.0, slow=0.0, away=0.0, slow_networks=())


class Heard(NamedTuple):
    """An event of a worker, and when it was received."""

    event: EventMessage
    at: float


def run() -> list[Result]:
    """Seconds from spawn to `started`, rows a second from topic to lake, memory beside a consumer that hangs."""
    with tempfile.TemporaryDirectory() as folder, open_stage(Path(folder), LARGE_DAYS, brokers=1) as stage:
        settings = stage.settings()
        return [*asyncio.run(_starts(settings)), asyncio.run(_drain(settings)), _stalled(stage)]


async def _starts(settings: Settings) -> list[Result]:
    results = []
    bare = python_start()
    for module in ("arango_connector", "loader_api_trades"):
        took = [await _start(settings, module) for _ in range(STARTS)]
        worst = max(took)
        against = f"worst of {STARTS}, median {sorted(took)[STARTS // 2]:.2f}; Python with its imports {bare:.2f}"
        good = worst <= START_TARGET
        results.append(Result(f"start_{module}", worst, "s to started", START_TARGET, against, good))
    return results


async def _start(settings: Settings, module: str) -> float:
    """A worker without work: of days that no exchange has, or of a topic that nobody writes to."""
    job = _job(module, days=1)
    async with _running(settings, module, job) as (events, began):
        return (await _first(events, "started")).at - began


async def _drain(settings: Settings) -> Result:
    job = _job("arango_connector", days=DRAIN_DAYS)
    rows = trades(DRAIN_ROWS, start=WHEN, days=DRAIN_DAYS)
    pages = list(_pages(job, rows))
    began = time.perf_counter()
    pyarrow.parquet.write_table(rows, settings.home / "alone.parquet", compression="zstd", compression_level=1)
    alone = DRAIN_ROWS / (time.perf_counter() - began)
    async with open_bus(settings) as bus:
        for page in pages:
            await bus.publish(job.topic, [page])
        async with _running(settings, "arango_connector", job) as (events, _):
            started = (await _first(events, "started")).event
            finished = (await _first(events, "finished")).event
        await bus.delete(job.topic)
    if finished.records_written != DRAIN_ROWS:
        raise RuntimeError(f"the connector wrote {finished.records_written} of {DRAIN_ROWS} rows")
    rate = DRAIN_ROWS / (finished.timestamp - started.timestamp)
    against = f"{DRAIN_ROWS / 1e6:.0f} M trades, a process; pyarrow writing one Parquet file {alone / 1e6:.1f}"
    good = rate >= DRAIN_TARGET
    return Result("connector_drain", rate / 1e6, "M rows/s into the lake", DRAIN_TARGET / 1e6, against, good)


def _pages(job: Job, rows: pa.Table) -> Iterator[Message]:
    each = DRAIN_ROWS // DRAIN_DAYS
    for number, partition in enumerate(job.partitions):
        yield from encode_pages(rows.slice(number * each, each), partition, 1)
        yield day_message(DayReport(source="bench"), partition, 1)
    yield end_message(job.partitions[-1], 1)


def _stalled(stage: Stage) -> Result:
    """SIGSTOP the connector; the loader must stop by itself, and all goes on once the connector does."""
    settings = stage.settings(silence_limit=600.0)
    load = Load(stage, settings, random.Random(1), symbols=stage.symbols[:1])
    load.wait_for(lambda: load.stored() >= 1, "a first day")
    connector = load.pick(lambda worker: worker.seat[1] == "arango-connector")
    coordinator = psutil.Process(load.process.pid)
    processes = [coordinator, *(worker.process for worker in load.workers())]
    most = 0
    load.strike(connector, signal.SIGSTOP)
    try:
        resume = time.monotonic() + STALLED
        while time.monotonic() < resume:
            most = max(most, *(process.memory_info().rss for process in processes))
            time.sleep(0.05)
    finally:
        connector.process.send_signal(signal.SIGCONT)
    load.finish()
    found = stage.difference(settings, load.symbols)
    if (found.lost, found.twice, found.wrong) != (0, 0, 0):
        raise RuntimeError(f"the store is not the truth: {found}")
    megabytes = most / 2**20
    against = f"coordinator, loader, connector: the largest in {STALLED:.0f} s; {found.rows / 1e6:.1f} M trades"
    return Result("stalled_consumer", megabytes, "MB", MEMORY_TARGET, against, megabytes <= MEMORY_TARGET)


def _job(module: str, *, days: int) -> Job:
    queue_id = f"wf-bench-{uuid.uuid4().hex[:8]}"
    target = TARGETS[module]
    name = f"{target}__{uuid.uuid4().hex[:6]}"
    return Job(queue_id, target, name, TRADES, SYMBOL, WHEN, WHEN + days * DAY, f"{queue_id}-data", "trades")


@asynccontextmanager
async def _running(settings: Settings, module: str, job: Job) -> AsyncIterator[tuple[AsyncIterator[Heard], float]]:
    """The job's worker with its start command; gives its events as they come, and when it was spawned."""
    start = ControlMessage(
        command="start", queue_id=job.queue_id, target=job.target, telemetry_id=job.telemetry_id
    )
    async with (
        open_bus(settings) as bus,
        bus.subscribe(EVENTS_TOPIC, group=job.queue_id, start="latest") as events,
        ProcessLauncher(settings.home / "logs", settings.environment()) as launcher,
    ):
        await bus.publish(CONTROL_TOPIC, [Message(encode(start), job.queue_id)])
        began = time.time()
        await launcher.start(WorkerSpec(module, job.telemetry_id, job.environment()))
        async with asyncio.timeout(DEADLINE):
            yield _heard(events, job), began


async def _heard(events: Subscription, job: Job) -> AsyncIterator[Heard]:
    while True:
        for delivery in await events.receive():
            if delivery.message.key == job.queue_id:
                yield Heard(decode_event(delivery.message.value), time.time())


async def _first(heard: AsyncIterator[Heard], status: str) -> Heard:
    async for one in heard:
        if one.event.status == status:
            return one
    raise RuntimeError(f"no event {status}")
