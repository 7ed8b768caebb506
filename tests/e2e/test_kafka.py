"""Kafka and worker processes together: the same numbers as embedded, and topics that end with their workflow."""

import asyncio
import os
import subprocess
import sys
import time

import psutil
import pytest

from resources.bus import open_bus
from resources.store import open_store
from streamforge_assets.simulator.faults import Slow
from streamforge_assets.workflow.states import WORKFLOWS
from tests.servers.session import kafka_address
from tests.simulated import CONFIG, END, START, SYMBOL, assert_same, environment, stored_rows, true_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
DATASETS = ["trades", "candles_5m"]
SYMBOLS = [instrument.symbol for instrument in CONFIG.instruments]
DEADLINE = 60.0


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"bus": "kafka", "kafka_bootstrap": kafka_address(), "launcher": "process"})


def backfill(settings, *datasets: str, symbols=SYMBOLS, **more: str) -> subprocess.Popen:
    words = ["backfill", *datasets, "--symbols", ",".join(symbols), "--from", str(START), "--to", str(END)]
    return subprocess.Popen(
        [sys.executable, "-m", "streamforge_assets.cli", *words],
        env=os.environ | environment(settings) | more,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


async def documents(settings) -> list[dict]:
    async with open_store(settings) as store:
        return await store.documents(WORKFLOWS)


async def topics(settings) -> list[str]:
    async with open_bus(settings) as bus:
        return await bus.topics()


def assert_truth(settings, exchange, symbols, datasets):
    for symbol in symbols:
        for dataset in datasets:
            stored = asyncio.run(stored_rows(settings, dataset, symbol, START, END))
            assert_same(stored, true_rows(exchange, dataset, symbol, START, END))


def test_a_backfill_over_kafka_ends_at_the_truth_and_leaves_no_data_topic(settings, exchange):
    running = backfill(settings, *DATASETS)
    _, said = running.communicate(timeout=200)
    assert running.returncode == 0, said
    assert_truth(settings, exchange, SYMBOLS, DATASETS)
    found = asyncio.run(documents(settings))
    assert {document["state"] for document in found} == {"finished"}
    assert len(found) == len(SYMBOLS) * len(DATASETS)
    assert not {f"{document['queue_id']}-data" for document in found} & set(asyncio.run(topics(settings)))
    logs = list((settings.home / "logs").glob("*.log"))
    assert len(logs) == 2 * len(found), "a worker had to be started twice"


def test_a_failed_workflow_keeps_its_topic_and_a_retry_ends_at_the_truth(
    command, at_exchange, exchange, monkeypatch
):
    settings = at_exchange
    exchange.faults.add(Slow(where="archive", seconds=1.0, times=1000))
    running = backfill(settings, "trades", symbols=[SYMBOL], STREAMFORGE_WORKER_ATTEMPTS="1")
    deadline = time.monotonic() + DEADLINE
    while not (loader := [one for one in children(running) if "loader" in one.cmdline()[-1]]):
        assert time.monotonic() < deadline, "no loader came up"
        time.sleep(0.05)
    queue_id = asyncio.run(documents(settings))[0]["queue_id"]
    while f"{queue_id}-data" not in asyncio.run(topics(settings)):
        assert time.monotonic() < deadline, "nothing was published"
        time.sleep(0.05)
    loader[0].kill()
    _, said = running.communicate(timeout=DEADLINE)
    assert running.returncode == 3, said
    (document,) = asyncio.run(documents(settings))
    assert document["state"] == "failed"
    assert f"{queue_id}-data" in asyncio.run(topics(settings))
    code, shown, _ = command("workflows", "show", queue_id)
    assert (code, "SIGKILL" in shown, "started" in shown) == (0, True, True), shown
    exchange.faults.clear()
    code, _, err = command("workflows", "retry", queue_id)
    assert code == 0, err
    assert_truth(settings, exchange, [SYMBOL], ["trades"])
    states = {one["state"] for one in asyncio.run(documents(settings))}
    assert states == {"failed", "finished"}


def children(of: subprocess.Popen) -> list[psutil.Process]:
    """The workers of a backfill that live now."""
    try:
        found = psutil.Process(of.pid).children()
        return [one for one in found if any("streamforge_assets.workers." in word for word in one.cmdline())]
    except psutil.NoSuchProcess:
        return []
