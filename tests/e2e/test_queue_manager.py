"""The queue-manager before a real Dagster: a whole pipeline; one that must fail; one that is stopped.

One Dagster and one queue-manager serve all tests of this file, each test with days or symbols of its own.
"""

import asyncio
import json
from collections.abc import Iterator
from datetime import date

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from resources.settings import Settings
from streamforge_assets.client import StreamForge
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.faults import Slow
from tests.e2e.served import QueueManager, serving_dagster
from tests.simulated import assert_same, environment, serve, stored_rows, true_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

# Symbols that trade in every bar, and windows of three days: small models, of few days.
CONFIG = SimulatorConfig(symbols=4, seed=5, first_day=date(2024, 7, 25), r2=0.2, trades_scale=0.2)
*TRADED, UNUSED = [item.symbol for item in CONFIG.instruments]
START, END = date(2024, 8, 1), date(2024, 8, 6)
MODELS = [date(2024, 8, 4), date(2024, 8, 5)]
FORECASTS = MODELS[1]


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulator")
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve(folder, CONFIG)) as served:
        yield served


@pytest.fixture(scope="module")
def settings(exchange, tmp_path_factory) -> Settings:
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        exchange="binance",  # one that is there already, so that nothing is started
        rest_url=exchange.rest_url,
        archive_url=exchange.archive_url,
        start_date=CONFIG.first_day,
        model_window=3,
    )


@pytest.fixture(scope="module")
def queue_manager(settings, tmp_path_factory) -> Iterator[QueueManager]:
    variables = {**environment(settings), "STREAMFORGE_MODEL_WINDOW": str(settings.model_window)}
    with serving_dagster(variables) as dagster_url:
        running = QueueManager(variables, dagster_url, tmp_path_factory.mktemp("queue-manager"))
        yield running
        running.kill()


def test_a_pipeline_goes_from_nothing_to_models_and_its_events_tell_every_step(queue_manager, settings, exchange):
    wanted = queue_manager.begin(symbols=TRADED, start=str(START), end=str(END), folds=1)
    queue_manager.until(wanted, lambda seen: seen["stages"][0]["backfill"])
    assert queue_manager.ended() == 0
    queue_manager.start()  # it goes on where the one before was, and its clients follow on
    *states, last = queue_manager.told(wanted)

    assert (last["state"], last["message"], last["warnings"]) == ("finished", "", [])
    assert [(s["name"], s["state"], s["targeted"], s["done"]) for s in last["stages"]] == [
        ("load", "finished", 30, 30),
        ("store", "finished", 30, 30),
        ("graph", "finished", 7, 7),
        ("train", "finished", 3, 3),
    ]
    assert queue_manager.look(wanted) == last
    in_order(states)
    loaded = {(one["dataset"], one["symbol"]) for one in last["workflows"]}
    assert loaded == {(dataset, symbol) for dataset in ("trades", "candles_5m") for symbol in TRADED}

    for dataset in ("trades", "candles_5m"):
        stored = asyncio.run(stored_rows(settings, dataset, TRADED[0], START, END))
        assert_same(stored, true_rows(exchange, dataset, TRADED[0], START, END))
    client = StreamForge(settings)
    for day in MODELS:
        assert set(client.graph(day).graph.symbols) == set(TRADED)
        assert set(client.model(day).symbols) == set(TRADED)
    assert set(client.forecasts(FORECASTS, END)["symbol"]) == set(TRADED)


def in_order(states: list[dict]) -> None:
    """Every stage was seen at work, each only once those before it had finished, and none went back."""
    rank = {"pending": 0, "running": 1, "finished": 2}
    seen = [[rank[stage["state"]] for stage in state["stages"]] for state in states]
    for stages in seen:
        assert stages == sorted(stages, reverse=True)
        assert stages.count(1) <= 1
    assert seen == sorted(seen)
    for number, name in enumerate(["load", "store", "graph", "train"]):
        # The ledger is read within one round, which no client needs to have seen.
        assert name == "store" or any(stages[number] == 1 for stages in seen), f"{name} was never seen running"


def test_a_graph_of_days_that_nobody_loaded_fails_with_the_cause(queue_manager):
    begun = queue_manager.begin(symbols=TRADED, start="2024-07-25", end="2024-07-30", stages=["graph", "train"])
    *_, (event, state) = queue_manager.follow(begun)
    assert (event, state) == ("over", "failed")
    seen = queue_manager.look(begun)
    assert [stage["state"] for stage in seen["stages"]] == ["failed", "pending"]
    assert seen["message"].startswith("the stage graph failed: 7 of 7 partitions were not made; ")
    assert "5 of 5 days could not be made; 2024-07-25: " in seen["message"]
    assert seen["message"].endswith(
        f"; see the backfill {seen['stages'][0]['backfill']} at {queue_manager.dagster_url}"
    )


def test_a_stop_ends_the_loading_and_its_workers_and_keeps_what_is_stored(queue_manager, settings, exchange):
    exchange.faults.add(Slow(where="archive", symbol=UNUSED, seconds=2.0))
    begun = queue_manager.begin(
        symbols=[UNUSED], start="2024-07-26", end="2024-08-26", datasets=["trades"], stages=["load", "store"]
    )
    queue_manager.until(begun, lambda seen: any(one["state"] == "running" for one in seen["workflows"]))
    assert queue_manager.http.post(f"/workflows/{begun}/stop").status_code == 202
    told = [state["state"] for state in queue_manager.told(begun)]
    assert (told[0], told[-1]) == ("stopping", "cancelled")
    seen = queue_manager.look(begun)
    assert [stage["state"] for stage in seen["stages"]] == ["cancelled", "pending"]
    assert {one["state"] for one in seen["workflows"]} == {"cancelled"}
    assert queue_manager.http.post(f"/workflows/{begun}/stop").status_code == 409


def test_what_the_exchange_does_not_trade_is_refused_and_without_the_token_everything(queue_manager):
    wanted = {"symbols": ["BTCUSDX"], "start": "2024-08-01", "end": "2024-08-02", "stages": ["load"]}
    answer = queue_manager.http.post("/workflows", json=wanted)
    assert answer.status_code == 422
    assert "the exchange does not trade BTCUSDX; it does trade " in answer.json()["detail"]
    assert httpx.get(f"{queue_manager.http.base_url}/workflows", trust_env=False).status_code == 401


def test_one_page_shows_the_metrics_of_the_queue_manager_and_of_healing(queue_manager, settings):
    page = queue_manager.http.get("/metrics").text
    assert "streamforge_queue_manager_workflows " in page
    # The sensor writes its page at each tick, also while there is nothing to heal.
    assert "# TYPE streamforge_heals_total counter" in page
    assert json.loads(queue_manager.http.get("/openapi.json").text)["info"]["title"]
