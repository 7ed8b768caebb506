"""A worker as a process, started by hand: its events, its log, its metrics, its exit code."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from resources.bus import Message, open_bus
from resources.datasets import DAY, TRADES, Partition, midnight, to_us
from resources.live_rows import row_message
from resources.messages import CONTROL_TOPIC, EVENTS_TOPIC, ControlMessage, decode_event, encode
from resources.metrics import METRICS
from resources.pages import end_message
from resources.store import open_store
from streamforge_assets.workers.job import Job
from tests.simulated import END, START, SYMBOL, environment

pytestmark = pytest.mark.e2e
DEADLINE = 30.0
WORKERS = {
    "arango_connector": "arango-connector",
    "loader_api_trades": "loader-producer",
    "loader_api_candles": "loader-producer",
}


def job_of(module: str) -> Job:
    """More days than a loader may be ahead of a connector: alone, it is still there when the stop comes."""
    target = WORKERS[module]
    end = START + 10 * DAY
    return Job("wf-1", target, f"{target}__1", TRADES, SYMBOL, START, end, "wf-1-data", "collection")


def start(module: str, settings, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"streamforge_assets.workers.{module}"],
        env=os.environ | environment(settings) | job_of(module).environment() | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def command(settings, word: str, module: str, **more: str) -> None:
    async with open_bus(settings) as bus:
        message = ControlMessage(command=word, queue_id="wf-1", target=WORKERS[module], **more)
        await bus.publish(CONTROL_TOPIC, [Message(encode(message), "wf-1")])


async def event(settings, status: str):
    """Wait for the first event of this status."""
    async with open_bus(settings) as bus, bus.subscribe(EVENTS_TOPIC, group=f"test-{status}") as events:
        async with asyncio.timeout(DEADLINE):
            while True:
                for delivery in await events.receive():
                    found = decode_event(delivery.message.value)
                    if found.status == status:
                        return found


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("module", WORKERS)
async def test_a_worker_starts_answers_and_stops_when_told(settings, module):
    await command(settings, "start", module)
    worker = (
        start(module, settings, KAFKA_TOPIC="wf-1-empty")
        if module == "arango_connector"
        else start(module, settings)
    )
    await event(settings, "started")
    await command(settings, "ping", module)
    await command(settings, "stop", module)
    last = await event(settings, "interrupted")
    assert last.finished
    _, said = await asyncio.to_thread(worker.communicate, timeout=DEADLINE)
    assert worker.returncode == 0
    assert {(line["queue_id"], line["telemetry_id"]) for line in lines(said)} == {
        ("wf-1", f"{WORKERS[module]}__1")
    }
    assert (await event(settings, "pong")).message == "alive"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_is_a_stop_and_the_worker_says_so(settings, number):
    worker = start("arango_connector", settings)
    await command(settings, "start", "arango_connector")
    await event(settings, "started")
    worker.send_signal(number)
    assert (await event(settings, "interrupted")).message == "Stopped after 0 records"
    await asyncio.to_thread(worker.wait, timeout=DEADLINE)
    assert worker.returncode == 0


async def test_a_stop_for_another_worker_or_workflow_is_passed_over(settings):
    worker = start("arango_connector", settings)
    await command(settings, "start", "arango_connector")
    await command(settings, "stop", "arango_connector", telemetry_id="arango-connector__2")
    await command(settings, "stop", "loader_api_trades")
    await command(settings, "ping", "arango_connector")
    await event(settings, "pong")
    await command(settings, "stop", "arango_connector", telemetry_id="arango-connector__1")
    await asyncio.to_thread(worker.wait, timeout=DEADLINE)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"TIME_RANGE": "yesterday"}, "'yesterday' is not a time range"),
        ({"TYPE": "api_tea"}, "'tea' is not a dataset"),
        ({"ATTEMPT": "first"}, "ATTEMPT and FENCE must be numbers"),
        ({"KAFKA_TOPIC": "a,b"}, "COLLECTION_NAME names 1 and KAFKA_TOPIC 2"),
        ({"STREAMFORGE_BUS": "pigeon"}, "STREAMFORGE_BUS is 'pigeon'"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL is 'LOUD'"),
        ({"METRICS_PORT": "many"}, "METRICS_PORT is 'many'"),
        ({"METRICS_PORT": "9", "METRICS_HOST": "203.0.113.1"}, "metrics cannot be served at 203.0.113.1:9"),
    ],
)
def test_a_wrong_environment_is_one_sentence_and_exit_code_2(settings, wrong, sentence):
    worker = start("arango_connector", settings, **wrong)
    _, said = worker.communicate(timeout=DEADLINE)
    assert worker.returncode == 2
    (line,) = lines(said)
    assert line["level"] == "ERROR"
    assert sentence in line["message"]


async def test_a_connector_serves_the_topics_that_its_environment_names(settings):
    topics = {"wf-1-data": ("BTCUSDT", 5), "wf-1-more-data": ("ETHUSDT", 7)}
    async with open_bus(settings) as bus:
        for topic, (symbol, count) in topics.items():
            rows = [row_message(TRADES, trade(symbol, number)) for number in range(count)]
            await bus.publish(topic, [*rows, end_message(Partition("trades", symbol, START), 1)])
    await command(settings, "start", "arango_connector")
    worker = start("arango_connector", settings, KAFKA_TOPIC=",".join(topics), COLLECTION_NAME="btc,eth")
    last = await event(settings, "finished")
    assert (last.message, last.records_written, last.model_extra["lag"]) == ("Wrote 12 records", 12, 0)
    await asyncio.to_thread(worker.communicate, timeout=DEADLINE)
    assert worker.returncode == 0
    async with open_store(settings) as store:
        stored = {one.partition.symbol: one.rows for one in await store.partitions()}
    assert stored == {"BTCUSDT": 5, "ETHUSDT": 7}


def trade(symbol: str, number: int) -> dict:
    moment = to_us(midnight(START)) + number
    ids = dict.fromkeys(["trade_id", "first_trade_id", "last_trade_id"], number)
    return {"symbol": symbol, "time": moment, "price": 1.0, "quantity": 1.0, "is_buyer_maker": False, **ids}


async def test_an_unreachable_exchange_fails_days_and_not_the_worker(settings):
    """Every day is reported with its sentence; the coordinator decides what that means."""
    await command(settings, "start", "loader_api_candles")
    more = {"STREAMFORGE_ARCHIVE_URL": "http://127.0.0.1:9", "STREAMFORGE_REST_URL": "http://127.0.0.1:9"}
    more["TIME_RANGE"] = f"{START}:{END}"
    worker = start("loader_api_candles", settings, **more, STREAMFORGE_REQUEST_ATTEMPTS="1")
    await event(settings, "finished")
    await asyncio.to_thread(worker.wait, timeout=DEADLINE)
    assert worker.returncode == 0


def test_a_home_that_cannot_be_written_ends_with_the_cause(settings, tmp_path):
    (tmp_path / "file").touch()
    worker = start("arango_connector", settings, STREAMFORGE_HOME=str(tmp_path / "file" / "home"))
    _, said = worker.communicate(timeout=DEADLINE)
    assert worker.returncode in {1, 2}
    assert "STREAMFORGE_HOME" in lines(said)[-1]["message"]


async def test_the_page_for_prometheus_has_every_metric_of_the_table(settings):
    await command(settings, "start", "loader_api_trades")
    worker = start("loader_api_trades", settings, METRICS_PORT="0")
    port = json.loads(worker.stderr.readline())["metrics_port"]
    deadline = time.monotonic() + DEADLINE
    while True:
        page = (
            (await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics")).read().decode()
        )
        values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        labels = f'{{symbol="{SYMBOL}",target="loader-producer",type="api_trades"}}'
        if float(values.get(f"streamforge_worker_records_total{labels}", 0)) > 0:
            break
        assert time.monotonic() < deadline, page
        await asyncio.sleep(0.05)
    assert all(metric.name in page for metric in METRICS)
    assert float(values[f"streamforge_worker_bytes_total{labels}"]) > 0
    assert time.time() - float(values[f"streamforge_worker_last_event_timestamp_seconds{labels}"]) < DEADLINE
    worker.terminate()
    await asyncio.to_thread(worker.communicate, timeout=DEADLINE)


def test_workers_load_nothing_heavy():
    """A worker must report `started` within 2 s of its start; these would take that alone."""
    code = (
        "import sys, streamforge_assets.workers.main, streamforge_assets.workers.registry;"
        "import resources.bus.embedded, resources.store.lake, resources.exchange.binance;"
        "print([name for name in ('dagster', 'torch', 'pandas', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
