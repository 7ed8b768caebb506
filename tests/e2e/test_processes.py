"""Workers as processes: the same numbers as inline, and whatever is killed or frozen is healed."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import date

import psutil
import pytest

from resources.store import open_store
from streamforge_assets.workflow.states import WORKFLOWS
from tests.simulated import CONFIG, START, assert_same, environment, stored_rows, true_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
DATASETS = ["trades", "candles_5m"]
SYMBOLS = [instrument.symbol for instrument in CONFIG.instruments]
END = date(2024, 8, 7)
HEALED_IN = 15.0


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"launcher": "process"})


def backfill(settings, *datasets: str, **more: str) -> subprocess.Popen:
    words = ["backfill", *datasets, "--symbols", ",".join(SYMBOLS), "--from", str(START), "--to", str(END)]
    return subprocess.Popen(
        [sys.executable, "-m", "streamforge_assets.cli", *words],
        env=os.environ | environment(settings) | more,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(of: subprocess.Popen) -> list[psutil.Process]:
    """The worker processes of a backfill that live now."""
    try:
        children = psutil.Process(of.pid).children()
        return [
            child for child in children if any("streamforge_assets.workers." in word for word in child.cmdline())
        ]
    except psutil.NoSuchProcess:
        return []


def assert_truth(settings, exchange, datasets=DATASETS):
    for symbol in SYMBOLS:
        for dataset in datasets:
            stored = asyncio.run(stored_rows(settings, dataset, symbol, START, END))
            assert_same(stored, true_rows(exchange, dataset, symbol, START, END))


async def documents(settings) -> list[dict]:
    async with open_store(settings) as store:
        return await store.documents(WORKFLOWS)


def test_a_backfill_by_processes_ends_at_the_truth_with_a_log_for_each_worker(settings, exchange):
    command = backfill(settings, *DATASETS)
    _, said = command.communicate(timeout=200)
    assert command.returncode == 0, said
    assert_truth(settings, exchange)
    found = asyncio.run(documents(settings))
    assert {document["state"] for document in found} == {"finished"}
    logs = sorted((settings.home / "logs").glob("*.log"))
    assert len(logs) == 2 * len(found), "one loader and one connector for each workflow"
    said = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    assert all("finished" in {line.get("status") for line in lines} for lines in said)
    assert {line["queue_id"] for lines in said for line in lines} == {one["queue_id"] for one in found}
    assert all(len({line["telemetry_id"] for line in lines}) == 1 for lines in said)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_killed_or_frozen_at_random_moments_are_healed_to_the_truth(settings, exchange, how):
    chance = random.Random(7)
    limits = {"SILENCE_LIMIT": "2", "START_LIMIT": "10", "WORKER_ATTEMPTS": "20"}
    command = backfill(settings, "trades", **{f"STREAMFORGE_{name}": value for name, value in limits.items()})
    struck: set[int] = set()
    kinds: set[str] = set()
    deadline = time.monotonic() + 200
    while command.poll() is None and (len(struck) < 4 or len(kinds) < 2):
        assert time.monotonic() < deadline, "too few workers came by"
        time.sleep(chance.uniform(0.1, 1.5))
        fresh = [worker for worker in workers(command) if worker.pid not in struck]
        if fresh:
            victim = chance.choice(fresh)
            try:
                kinds.add(victim.cmdline()[-1])
                victim.send_signal(how)
            except (psutil.NoSuchProcess, IndexError):
                continue
            struck.add(victim.pid)
    _, said = command.communicate(timeout=300)
    assert command.returncode == 0, said
    assert_truth(settings, exchange, ["trades"])
    # A successor that was struck as well, before it could report, makes its predecessor's healing longer.
    last = {
        (document["queue_id"], incident["worker"].split("__")[0]): incident
        for document in asyncio.run(documents(settings))
        for incident in document["history"]
    }
    times = [incident["healed_in"] for incident in last.values() if incident["healed_in"] is not None]
    assert times, "nothing was healed"
    assert max(times) < HEALED_IN, last


def test_workers_end_with_a_backfill_that_is_killed(settings, exchange):
    """Workers that outlive their coordinator would write beside those of the next backfill."""
    command = backfill(settings, "trades")
    deadline = time.monotonic() + 60
    while len(left := workers(command)) < 2:
        assert time.monotonic() < deadline, "no workers were started"
        time.sleep(0.02)
    command.kill()
    command.wait()
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not alive
    again = backfill(settings, "trades")
    _, said = again.communicate(timeout=200)
    assert again.returncode == 0, said
    assert_truth(settings, exchange, ["trades"])
