"""Looking after a running platform: workflows are listed, shown, stopped, retried; dead letters are replayed."""

import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta

import psutil
import pytest

from resources.bus import Message, open_bus
from resources.datasets import TRADES
from resources.errors import Rejected
from resources.messages import CONTROL_TOPIC, decode_control
from resources.store import open_store
from streamforge_assets.simulator.faults import Slow
from streamforge_assets.workflow.overview import failures_in_a_row
from streamforge_assets.workflow.states import STOP_REQUESTS, WORKFLOWS, Incident, new_workflow
from streamforge_assets.workflow.takeover import LEFT_ALONE
from tests.simulated import START, SYMBOL, assert_same, environment, stored_rows, true_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
END = date(2024, 8, 11)
DEADLINE = 60.0


def kept(settings, workflow, **changes):
    """Write a workflow's document as its coordinator would have."""
    workflow = workflow.model_copy(update=changes)

    async def write():
        async with open_store(settings) as store:
            await store.put_document(WORKFLOWS, workflow.queue_id, workflow.model_dump(mode="json"))

    asyncio.run(write())
    return workflow


def made_workflow():
    return new_workflow(TRADES, SYMBOL, START, END, "{symbol}_{type}_{start}")


@pytest.mark.parametrize("launcher", ["inline", "process"])
def test_a_running_workflow_is_stopped_from_another_process_and_a_retry_ends_at_the_truth(
    command, at_exchange, exchange, launcher
):
    settings = at_exchange.model_copy(update={"launcher": launcher})
    exchange.faults.add(Slow(where="archive", seconds=1.0, times=1000))
    words = ["backfill", "trades", "--symbols", SYMBOL, "--from", str(START), "--to", str(END)]
    backfill = subprocess.Popen(
        [sys.executable, "-m", "streamforge_assets.cli", *words],
        env=os.environ | environment(settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE
    while not (running := json.loads(command("workflows", "list", "--state", "running", "--json")[1])):
        assert time.monotonic() < deadline, "no workflow came up"
        assert backfill.poll() is None, backfill.stderr.read()
        time.sleep(0.2)
    queue_id = running[0]["queue_id"]
    code, _, err = command("workflows", "retry", queue_id)
    assert (code, "runs; stop it first" in err) == (1, True)
    workers = [
        p for p in psutil.Process(backfill.pid).children() if "streamforge_assets.workers" in str(p.cmdline())
    ]
    code, _, err = command("workflows", "stop", queue_id.rpartition("-")[2])
    assert code == 0, err
    assert f"{queue_id} is cancelled: stopped by " in err
    assert not psutil.wait_procs(workers, timeout=20)[1]
    _, said = backfill.communicate(timeout=DEADLINE)
    assert backfill.returncode == 3, said
    assert "stopped by" in said
    assert command("workflows", "stop", queue_id)[0] == 1
    exchange.faults.clear()
    code, _, err = command("workflows", "retry", queue_id)
    assert code == 0, err
    assert_same(
        asyncio.run(stored_rows(settings, "trades", SYMBOL, START, END)),
        true_rows(exchange, "trades", SYMBOL, START, END),
    )


def test_a_workflow_whose_coordinator_is_gone_is_left_alone_and_stops_by_its_workers(command, settings):
    """After a kill -9 of the coordinator on a cluster, its workers would go on for ever."""
    long_ago = datetime.now(UTC) - timedelta(seconds=LEFT_ALONE + 1)
    workflow = kept(settings, made_workflow(), state="running", updated_at=long_ago)
    assert [
        one["queue_id"] for one in json.loads(command("workflows", "list", "--state", "left alone", "--json")[1])
    ]
    code, _, err = command("workflows", "stop", workflow.queue_id)
    assert code == 0
    assert "is cancelled" in err

    async def told():
        async with open_bus(settings) as bus, bus.subscribe(CONTROL_TOPIC, group="test") as commands:
            return [decode_control(d.message.value) for d in await commands.receive()]

    assert {(c.command, c.target, c.queue_id) for c in asyncio.run(told())} == {
        ("stop", "arango-connector", workflow.queue_id),
        ("stop", "loader-producer", workflow.queue_id),
    }

    async def requests():
        async with open_store(settings) as store:
            return await store.documents(STOP_REQUESTS)

    assert asyncio.run(requests()) == []


def test_show_tells_the_incidents_and_when_a_failed_workflow_is_left_to_a_person(command, settings):
    incident = Incident(
        at=datetime.now(UTC), worker="loader-producer__1", attempt=1, cause="it hung", healed_in=1.2
    )
    workflow = kept(settings, made_workflow(), state="failed", message="the exchange is away", history=(incident,))
    code, out, _ = command("workflows", "show", workflow.queue_id)
    assert code == 0
    for word in ("the exchange is away", "it hung", "1.2 s", "may be started again by itself"):
        assert word in out
    for _ in range(2):
        workflow = kept(settings, made_workflow(), state="failed", message="the exchange is away")
    _, out, _ = command("workflows", "show", workflow.queue_id)
    assert "failed 3 times in a row: only a person starts it again" in out


def test_the_commands_of_operators_load_nothing_heavy():
    """They must answer at once; a client with its frames and models takes a second to load."""
    code = (
        "import sys, streamforge_assets.cli, resources.bus.embedded, resources.bus.kafka, resources.store.lake;"
        "print([name for name in ('dagster', 'torch', 'pandas', 'scipy', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_failures_are_counted_since_the_last_success_of_the_same_work():
    def one(state, second, **changes):
        moment = datetime.fromtimestamp(second, UTC)
        return made_workflow().model_copy(update={"state": state, "updated_at": moment, **changes})

    known = [one("failed", 1), one("finished", 2), one("failed", 3), one("cancelled", 4), one("failed", 5)]
    assert failures_in_a_row([*known, one("failed", 6, symbol="OTHER")], known[-1]) == [3.0, 5.0]


@pytest.mark.parametrize("word", ["show", "stop", "retry"])
def test_an_unknown_workflow_is_one_sentence(command, settings, word):
    code, out, err = command("workflows", word, "wf-nope")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "there is no workflow wf-nope" in err


def test_the_end_of_an_id_is_enough_where_it_is_alone(command, settings):
    first = kept(settings, made_workflow(), queue_id="wf-a-77")
    kept(settings, made_workflow(), queue_id="wf-b-77")
    assert command("workflows", "show", "a-77")[1].split()[1] == first.queue_id
    code, _, err = command("workflows", "show", "77")
    assert (code, "is the end of 2 workflows" in err) == (1, True)


def test_dead_letters_are_listed_shown_and_sent_again(command, settings):
    assert command("dlq", "list")[2] == "no message was set aside\n"
    code, _, err = command("dlq", "show", "data")
    assert (code, "data has no dead letters; no topic has" in err) == (1, True)

    async def set_aside():
        headers = {"reason": "a row is not JSON", "source-topic": "data", "source-offset": "7", "kind": "row"}
        async with open_bus(settings) as bus:
            await bus.publish("data", [Message(b"earlier")])
            await bus.publish(
                "data.dlq", [Message(b"{oops", "BTCUSDT", headers), Message(b"\xff" * 9, "", headers)]
            )

    asyncio.run(set_aside())
    assert json.loads(command("dlq", "list", "--json")[1]) == [{"topic": "data", "letters": 2, "waiting": 2}]
    out = command("dlq", "show", "data")[1]
    for word in ("data[0]@7: a row is not JSON", "{oops", "9 bytes, not text"):
        assert word in out
    (first, _) = json.loads(command("dlq", "show", "data", "--json")[1])
    assert first["headers"] == {"kind": "row"}
    assert "sent 1 messages to data again" in command("dlq", "replay", "data")[2]
    assert json.loads(command("dlq", "list", "--json")[1])[0]["waiting"] == 0


def test_rejected_is_what_a_stop_of_something_over_raises(settings):
    from streamforge_assets.workflow import overview

    async def stop():
        async with open_store(settings) as store, open_bus(settings) as bus:
            await overview.stop(store, bus, made_workflow().model_copy(update={"state": "failed"}), by="me")

    with pytest.raises(Rejected, match="is over already: it failed"):
        asyncio.run(stop())
