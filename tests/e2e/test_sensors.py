"""The sensors in Dagster's daemon, evaluated in its code server: they tell of foreign data, and heal."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from resources.datasets import DAY, TRADES
from sensors.healing_plan import lost
from sensors.self_healing import HEALS_TAG
from streamforge_assets.local_dagster import add_symbols, dagster_home, open_instance
from streamforge_assets.lost_runs import CODE_SERVER_TAG, end_lost_runs
from streamforge_assets.partitions import market_asset_key, market_key
from streamforge_assets.simulator.faults import Slow
from streamforge_assets.workflow.platform import open_platform
from streamforge_assets.workflow.states import new_workflow
from tests.sensors.made import keep, kept
from tests.simulated import END, START, SYMBOL, assert_same, environment, stored_rows, true_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
DEADLINE = 240


@pytest.fixture
def daemon(settings, tmp_path):
    """Start Dagster's daemon when called."""
    processes = []
    said = tmp_path / "daemon.log"

    def start():
        home = dagster_home(settings)
        with said.open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dagster._daemon", "run", "-w", str(home / "workspace.yaml")],
                    env=os.environ | environment(settings) | {"DAGSTER_HOME": str(home)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    yield start
    for process in processes:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    print(said.read_text()[-5000:])  # noqa: T201  # shown when the test fails


def wait_for(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.5)


def collect_outside_a_run(settings, start, end):
    async def work():
        async with open_platform(settings) as platform:
            await platform.coordinator.collect(TRADES, SYMBOL, start, end)

    asyncio.run(work())


def owed_by_a_lost_run(settings, start):
    """Keep a workflow of the days from `start` whose coordinator was found gone a minute ago."""
    then = datetime.now(UTC) - timedelta(seconds=61)
    made = new_workflow(TRADES, SYMBOL, start, END, "{symbol}_{type}_{start}", run_id="killed")
    made = lost(made.model_copy(update={"created_at": then}), "its coordinator was gone", now=then)
    keep(settings, made)
    return made


def test_the_daemon_learns_of_foreign_data_and_brings_what_a_lost_run_owed(settings, exchange, daemon):
    collect_outside_a_run(settings, START, START + DAY)
    gone = owed_by_a_lost_run(settings, START + DAY)
    with open_instance(settings) as instance:
        add_symbols(instance, [SYMBOL])
        daemon()
        key = market_asset_key("trades")
        foreign, owed = market_key(START, SYMBOL), {market_key(START + DAY * n, SYMBOL) for n in (1, 2)}
        wait_for(lambda: foreign in instance.get_materialized_partitions(key), "the materialisation")
        wait_for(lambda: owed <= instance.get_materialized_partitions(key), "the healing run")
        wait_for(lambda: kept(settings)[gone.queue_id].history[-1].healed_in is not None, "its mark")
        (run,) = instance.get_runs(dg.RunsFilter(tags={HEALS_TAG: gone.queue_id}))
        wait_for(lambda: instance.get_run_by_id(run.run_id).is_finished, "the run's end")
        assert instance.get_run_by_id(run.run_id).is_success
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[foreign, *sorted(owed)]), limit=10
        ).records
        assert sorted(record.partition_key for record in records) == sorted({foreign, *owed}), "each day once"
        assert instance.get_runs_count() == 1, "a key is started once, however often it is asked for"
    rows = asyncio.run(stored_rows(settings, "trades", SYMBOL, START, END))
    assert_same(rows, true_rows(exchange, "trades", SYMBOL, START, END))
    assert (
        'streamforge_heals_total{target="coordinator"} 1.0' in (settings.home / "metrics/healing.prom").read_text()
    )


def test_a_run_that_was_killed_ends_its_workflow_with_the_cause(settings, exchange, daemon):
    """`kill -9` of the run: what its document says must not stay `running` for ever.

    The code server that started the run's process sees it end, without Dagster's run monitoring.
    """
    exchange.faults.add(Slow(where="archive", seconds=60, times=1000))
    owed = owed_by_a_lost_run(settings, START)
    with open_instance(settings) as instance:
        add_symbols(instance, [SYMBOL])
        daemon()
        wait_for(lambda: len(kept(settings)) == 2, "the healing run's workflow")
        (run,) = instance.get_runs()
        (mine,) = [one for one in kept(settings).values() if one.queue_id != owed.queue_id]
        assert mine.run_id == run.run_id
        assert CODE_SERVER_TAG in instance.get_run_by_id(run.run_id).tags
        end_lost_runs(instance)
        assert not instance.get_run_by_id(run.run_id).is_finished, "a run that lives is not taken for lost"
        os.kill(process_of(instance, run.run_id), signal.SIGKILL)
        wait_for(lambda: instance.get_run_by_id(run.run_id).is_finished, "Dagster's notice of the run's end")
        wait_for(lambda: kept(settings)[mine.queue_id].state == "failed", "the workflow's end")
        # `self_healing` may have noticed its silence before `run_failures` came to tell the cause.
        died = f"Run execution process for {run.run_id} was terminated by signal 9 (SIGKILL)."
        died = f"the run {run.run_id} failed: {died}"
        wait_for(lambda: kept(settings)[mine.queue_id].message.startswith(died), "the cause")
        document = kept(settings)[mine.queue_id]
        assert document.history[-1].worker == "coordinator"


def process_of(instance, run_id):
    """The process that executes a run, by Dagster's own word."""
    for entry in instance.all_logs(run_id):
        if found := re.search(r"Executing steps in process \(pid: (\d+)\)", entry.user_message or ""):
            return int(found[1])
    raise AssertionError("the run does not say which process executes it")
