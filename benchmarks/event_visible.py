"""How long after its publication `streamforge workflows show` has shown an event, its own start included."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks.result import Result, python_start
from resources.bus import Bus, Message, open_bus
from resources.datasets import DAY, TRADES
from resources.messages import EVENTS_TOPIC, EventMessage, encode
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.workflow.states import WORKFLOWS, Workflow, new_workflow
from tests.servers.kafka import Kafka

TARGET = 1.0
EVENTS = 100
BEFORE, BESIDE = 100_000, 5_000
"""Events of other workflows in the same topic: a busy day's, and those that come while this one runs."""

WHEN = date(2024, 8, 1)


def run() -> list[Result]:
    """The 99th percentile of the seconds from publication to the end of a command that shows the event."""
    with tempfile.TemporaryDirectory() as folder, Kafka(Path(folder) / "kafka") as kafka:
        settings = Settings(
            home=Path(folder) / "home", exchange="binance", bus="kafka", kafka_bootstrap=kafka.bootstrap
        )
        took = asyncio.run(_measure(settings))
    worst = sorted(took)[int(0.99 * (len(took) - 1))]
    reference = (
        f"p99 of {EVENTS}, median {sorted(took)[EVENTS // 2]:.2f}, after {BEFORE} and beside {BESIDE} others;"
        f" Python with aiokafka and pyarrow {python_start():.2f}"
    )
    return [Result("event_visible", worst, "s to be shown", TARGET, reference, worst <= TARGET)]


async def _measure(settings: Settings) -> list[float]:
    chance = random.Random(1)
    workflow = new_workflow(TRADES, "BTCUSDT", WHEN, WHEN + DAY, settings.collection_template)
    async with open_store(settings) as store, open_bus(settings) as bus:
        await _busy(bus, BEFORE)
        # As the coordinator writes it when it begins.
        workflow = workflow.moved(events_from=dict(await bus.end_offsets(EVENTS_TOPIC)))
        await store.put_document(WORKFLOWS, workflow.queue_id, workflow.model_dump(mode="json"))
        await _busy(bus, BESIDE)
        took = []
        for number in range(EVENTS):
            await asyncio.sleep(chance.uniform(0.0, 0.1))
            took.append(await _shown(settings, bus, workflow, f"probe {number} of {EVENTS}"))
    return took


async def _busy(bus: Bus, events: int) -> None:
    for start in range(0, events, 1000):
        await bus.publish(EVENTS_TOPIC, [_event("wf-another", str(n)) for n in range(start, start + 1000)])


def _event(queue_id: str, words: str) -> Message:
    event = EventMessage(
        queue_id=queue_id,
        producer="bench",
        symbol="BTCUSDT",
        type=TRADES.api_type,
        status="loading",
        message=words,
        records_written=0,
        finished=False,
    )
    return Message(encode(event), queue_id)


async def _shown(settings: Settings, bus: Bus, workflow: Workflow, words: str) -> float:
    began = time.perf_counter()
    await bus.publish(EVENTS_TOPIC, [_event(workflow.queue_id, words)])
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamforge_assets.cli", "workflows", "show", workflow.queue_id, "--json"),
        env=os.environ | settings.environment(),
        stdout=subprocess.PIPE,
    )
    said, _ = await command.communicate()
    if words.encode() not in said:
        raise RuntimeError(f"{words!r} is not shown: {said[-500:]!r}")
    return time.perf_counter() - began
