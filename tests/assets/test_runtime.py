"""What every worker does besides its work, on a real bus."""

import asyncio
from dataclasses import replace

import pytest

from resources.errors import Unavailable
from resources.messages import CONTROL_TOPIC, EVENTS_TOPIC, decode_event
from resources.metrics import RECORDS
from streamforge_assets.workers.runtime import Replaced, run_worker
from tests.assets.connecting import DEADLINE, JOB, until


async def events(ports):
    end = (await ports.bus.end_offsets(EVENTS_TOPIC)).get(0, 0)
    found = []
    async with ports.bus.subscribe(EVENTS_TOPIC, group="reader") as subscription:
        while len(found) < end:
            found += await subscription.receive()
    return [decode_event(one.message.value) for one in found]


async def test_one_whose_double_has_begun_ends_without_a_word(ports):
    """Both have the same name, so a last event of the first would be taken for the end of the second."""
    release = asyncio.Event()

    async def wait(_job, _ports, reporter):
        await release.wait()
        return "done"

    first = asyncio.create_task(run_worker(JOB, ports, wait, start_limit=0))

    async def begun():
        return len(await events(ports)) == 1

    await until(begun)
    second = asyncio.create_task(run_worker(JOB, ports, wait, start_limit=0))
    with pytest.raises(Replaced, match=f"{JOB.telemetry_id} to {CONTROL_TOPIC} has taken over"):
        await asyncio.wait_for(first, DEADLINE)
    release.set()
    await asyncio.wait_for(second, DEADLINE)
    assert [one.status for one in await events(ports)] == ["started", "started", "finished"]


def impatient(ports, stall_limit):
    limits = {"silence_limit": 0.3, "stall_limit": stall_limit}
    return replace(ports, settings=ports.settings.model_copy(update=limits))


async def test_one_whose_work_stands_still_ends_itself_with_an_error_that_may_be_repeated(ports):
    """Its heartbeat would keep it from being replaced for ever."""

    async def hang(_job, ports, _reporter):
        with ports.meter.stage("write"):
            await asyncio.Event().wait()

    with pytest.raises(Unavailable, match=r"stood still for \d s \(write\)"):
        await asyncio.wait_for(run_worker(JOB, impatient(ports, 1.0), hang, start_limit=0), DEADLINE)
    said = await events(ports)
    last = said[-1]
    assert (last.status, last.finished, last.model_extra["retriable"]) == ("error", True, True)
    assert "nothing new for" in said[-2].message


async def test_slow_work_and_waiting_for_others_are_no_standstill(ports):
    async def slow(_job, ports, _reporter):
        for _ in range(10):
            ports.meter.add(RECORDS)
            await asyncio.sleep(0.2)
        for _ in range(10):
            with ports.meter.stage("wait"):
                await asyncio.sleep(0.2)
        return "done"

    await asyncio.wait_for(run_worker(JOB, impatient(ports, 2.0), slow, start_limit=0), DEADLINE)
    assert (await events(ports))[-1].status == "finished"
