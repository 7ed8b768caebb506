"""What every worker does besides its work, on a real bus."""

import asyncio

import pytest

from resources.messages import CONTROL_TOPIC, EVENTS_TOPIC, decode_event
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
