"""The work that is none: counts records at a rate, and fails, hangs or dies slowly as it is told."""

from __future__ import annotations

import asyncio
import random
import time

from resources.errors import Unavailable
from resources.metrics import BATCHES, BYTES, RECORDS, RETRIES
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.runtime import Ports, Reporter, Work, log

from app.options import Behaviour

TICK = 0.1
RECORD_BYTES = 200


def pretend(behaviour: Behaviour) -> Work:
    """The work of a worker that behaves so."""

    async def work(_: Job, ports: Ports, reporter: Reporter) -> str:
        began = time.monotonic()
        while not reporter.stop.is_set():
            passed = time.monotonic() - began
            _meet_fate(behaviour, passed)
            if behaviour.stall_after is not None and passed >= behaviour.stall_after:
                log.warning("its work stands still from now on, as asked")
                await asyncio.Event().wait()
            if random.random() < behaviour.error_rate:
                ports.meter.add(RETRIES)
                log.warning("a batch failed and is repeated, as asked")
            due = int(passed * behaviour.rate)
            records = min(due, behaviour.total) if behaviour.total else due
            _count(ports, reporter, records - reporter.records)
            if behaviour.total and records >= behaviour.total:
                return f"Loaded {reporter.records} records"
            await asyncio.sleep(TICK)
        await _die(behaviour.slow_death)
        return f"Stopped after {reporter.records} records"

    return work


def _meet_fate(behaviour: Behaviour, passed: float) -> None:
    if behaviour.fail_after is not None and passed >= behaviour.fail_after:
        raise Unavailable(f"failed after {behaviour.fail_after:g} s, as asked")
    if behaviour.hang_after is not None and passed >= behaviour.hang_after:
        log.warning("hangs from now on, as asked; only SIGKILL ends it")
        while True:
            # On purpose in the loop's thread: a worker that hangs sends no heartbeat and hears no signal.
            time.sleep(3600)


def _count(ports: Ports, reporter: Reporter, records: int) -> None:
    reporter.records += records
    ports.meter.add(RECORDS, records)
    ports.meter.add(BYTES, records * RECORD_BYTES)
    ports.meter.add(BATCHES)


async def _die(seconds: float) -> None:
    """Take `seconds` to end, whoever insists."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            log.warning("takes its time to die, as asked: %.1f s more", end - time.monotonic())
