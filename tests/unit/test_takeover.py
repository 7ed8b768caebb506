"""A workflow whose coordinator died is ended by whoever does its work anew, and only such a one."""

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import psutil
import pytest

from resources.bus import Message, open_bus
from resources.datasets import TRADES, candles
from resources.messages import CONTROL_TOPIC, decode_control
from resources.store import open_store
from streamforge_assets.workflow.states import WORKFLOWS, new_workflow
from streamforge_assets.workflow.takeover import LEFT_ALONE, left_alone, take_over, this_process

START, END = date(2024, 8, 1), date(2024, 8, 4)


def workflow(dataset=TRADES, symbol="BTCUSDT", start=START, end=END, **changes):
    return new_workflow(dataset, symbol, start, end, "{symbol}").moved(**{"state": "running", **changes})


@pytest.fixture
def gone() -> str:
    """The name of a process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host, _, _ = this_process().partition("/")
    name = f"{host}/{process.pid}/{psutil.Process(process.pid).create_time():.2f}"
    process.communicate()
    return name


def test_whose_coordinator_is_gone(gone):
    now = datetime.now(UTC)
    assert not left_alone(workflow(coordinator=this_process()), now=now)
    assert left_alone(workflow(coordinator=gone), now=now)
    assert not left_alone(workflow(coordinator=gone, state="finished"), now=now)
    assert left_alone(workflow(coordinator=this_process() + "1"), now=now), "another process with the same id"
    elsewhere = workflow(coordinator="another-host/1/1.00")
    assert not left_alone(elsewhere, now=now)
    assert left_alone(elsewhere, now=now + timedelta(seconds=LEFT_ALONE + 1))


async def test_only_left_workflows_with_the_same_days_are_ended(settings, gone):
    new = workflow(coordinator=this_process())
    left = workflow(coordinator=gone, start=date(2024, 8, 3), end=date(2024, 8, 9))
    others = [
        workflow(coordinator=this_process()),
        workflow(coordinator=gone, symbol="ETHUSDT"),
        workflow(coordinator=gone, dataset=candles("5m")),
        workflow(coordinator=gone, start=END, end=date(2024, 8, 9)),
        workflow(coordinator=gone, state="failed"),
    ]
    async with open_bus(settings) as bus, open_store(settings) as store:
        for one in [left, *others]:
            await store.put_document(WORKFLOWS, one.queue_id, one.model_dump(mode="json"))
            await bus.publish(f"{one.queue_id}-data", [Message(b"page")])
        await take_over(store, bus, new)
        documents = {one["queue_id"]: one for one in await store.documents(WORKFLOWS)}
        kept = {name for name in await bus.topics() if name.endswith("-data")}
        async with bus.subscribe(CONTROL_TOPIC, group="test") as commands:
            told = [decode_control(d.message.value) for d in await commands.receive()]
    assert documents[left.queue_id]["state"] == "cancelled"
    assert documents[left.queue_id]["message"] == f"its coordinator was gone; {new.queue_id} took over"
    assert {one.queue_id: documents[one.queue_id]["state"] for one in others} == {
        one.queue_id: one.state for one in others
    }
    assert kept == {f"{one.queue_id}-data" for one in others}
    assert {(one.command, one.queue_id) for one in told} == {("stop", left.queue_id)}
