"""The market assets on an ephemeral Dagster instance, against the simulated exchange."""

import subprocess
import sys
from datetime import UTC, date, datetime

import dagster as dg
import pytest

from resources.datasets import TRADES, Partition, candles
from resources.settings import Settings
from sensors.queue_events import materialised_version, queue_events
from streamforge_assets.assets.catalogue import modelling_assets
from streamforge_assets.assets.market_data import market_asset
from streamforge_assets.assets.session import Session
from streamforge_assets.definitions import build_definitions
from streamforge_assets.local_dagster import open_instance
from streamforge_assets.partitions import market_key
from streamforge_assets.schedules import daily_market_data, daily_models
from streamforge_assets.simulator.faults import DroppedTrades
from tests.sensors.made import kept
from tests.simulated import SYMBOL

DAYS = [date(2024, 8, 1), date(2024, 8, 2), date(2024, 8, 3)]


def materialise(settings: Settings, instance: dg.DagsterInstance, days=DAYS, tags=None):
    session = Session(settings)
    instance.add_dynamic_partitions("symbols", [SYMBOL])
    result = dg.materialize(
        [market_asset(settings, TRADES), market_asset(settings, candles("5m"))],
        instance=instance,
        resources={"session": session},
        raise_on_error=False,
        tags={
            "dagster/asset_partition_range_start": market_key(days[0], SYMBOL),
            "dagster/asset_partition_range_end": market_key(days[-1], SYMBOL),
            **(tags or {}),
        },
    )
    return result, session


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def materialised(instance: dg.DagsterInstance, name: str) -> set[str]:
    return instance.get_materialized_partitions(dg.AssetKey(["market", name]))


def test_a_range_run_materialises_each_partition_once_with_its_metadata(settings, instance):
    result, _ = materialise(settings, instance)
    assert result.success
    for name in ("trades", "candles_5m"):
        assert materialised(instance, name) == {market_key(day, SYMBOL) for day in DAYS}
        events = [
            event.step_materialization_data.materialization
            for event in result.all_events
            if event.is_step_materialization and event.asset_key == dg.AssetKey(["market", name])
        ]
        assert len(events) == len(DAYS)
        for event in events:
            metadata = {key: value.value for key, value in event.metadata.items()}
            assert metadata["dagster/row_count"] > 0
            assert metadata["missing"] == 0
            assert metadata["source"] == "archive"
            assert metadata["first"].startswith(event.partition[:10])
            assert "data:image/svg+xml" in metadata["picture"]
            assert len(metadata["picture"]) < 30_000


def test_a_workflow_knows_the_backfill_that_its_run_is_part_of(settings, instance):
    """By it the queue-manager tells the workers of its pipelines from those of others."""
    materialise(settings, instance, tags={"dagster/backfill": "qwertyui"})
    assert {one.backfill for one in kept(settings).values()} == {"qwertyui"}


def test_the_sensors_leave_a_runs_own_days_to_the_run(settings, instance):
    """Else each day that a run brings would be materialised twice, and all that follows from it started twice."""
    result, _ = materialise(settings, instance)
    assert {one.run_id for one in kept(settings).values()} == {result.run_id}
    read = queue_events(settings)(dg.build_sensor_context(instance=instance))
    assert {type(one) for one in read.asset_events} == {dg.AssetObservation}
    days = [one for one in read.asset_events if one.asset_key == dg.AssetKey(["market", "trades"])]
    assert {one.partition for one in days} == {market_key(day, SYMBOL) for day in DAYS}
    assert materialised_version(instance, Partition("trades", SYMBOL, DAYS[0]))


def test_checks_travel_with_the_materialisation(settings, instance):
    result, _ = materialise(settings, instance)
    checks = {
        (evaluation.asset_key.path[-1], evaluation.check_name): evaluation
        for evaluation in result.get_asset_check_evaluations()
    }
    assert {name for _, name in checks} == {
        "complete",
        "ordered_and_unique",
        "ohlc_sane",
        "agrees_with_trades",
        "agrees_with_candles",
    }
    assert all(evaluation.passed for evaluation in checks.values())
    agreement = checks["candles_5m", "agrees_with_trades"]
    assert agreement.metadata["candles_compared"].value > 700


def test_a_partition_with_a_hole_fails_and_the_others_are_materialised(settings, exchange, instance):
    exchange.faults.add(DroppedTrades(where="both", day=DAYS[1], rows=5))
    result, session = materialise(settings, instance)
    assert not result.success
    assert materialised(instance, "trades") == {market_key(day, SYMBOL) for day in (DAYS[0], DAYS[2])}
    assert materialised(instance, "candles_5m") == {market_key(day, SYMBOL) for day in DAYS}, "the others go on"
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "5 trades are missing" in failure.step_failure_data.user_failure_data.description
    complete = next(
        e
        for e in result.get_asset_check_evaluations()
        if e.check_name == "complete" and e.asset_key.path[-1] == "trades"
    )
    assert not complete.passed
    assert [item.partition for item in session.collected if item.failure] == [Partition("trades", SYMBOL, DAYS[1])]


def test_a_second_run_fetches_nothing_and_materialises_again(settings, exchange, instance):
    materialise(settings, instance)
    downloads = exchange.stats.downloads.copy()
    result, _ = materialise(settings, instance)
    assert result.success
    assert exchange.stats.downloads == downloads


def test_the_asset_graph_is_what_it_was():
    """Reviewers see a change of the graph as a change of this table."""
    graph = build_definitions(Settings(intervals=("1m", "5m"))).resolve_asset_graph()
    assert {
        key.to_user_string(): (
            graph.get(key).group_name,
            sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            sorted(check.name for check in graph.get_check_keys_for_assets({key})),
        )
        for key in graph.get_all_asset_keys()
    } == {
        "market/trades": ("market", [], ["agrees_with_candles", "complete", "ordered_and_unique"]),
        "market/candles_1m": ("market", [], ["agrees_with_trades", "complete", "ohlc_sane", "ordered_and_unique"]),
        "market/candles_5m": ("market", [], ["agrees_with_trades", "complete", "ohlc_sane", "ordered_and_unique"]),
        "analysis/features": ("analysis", ["market/candles_1m", "market/trades"], ["coverage"]),
        "analysis/asset_graph": ("analysis", ["analysis/features"], ["coverage", "drift"]),
        "models/gnn_model": (
            "models",
            ["analysis/asset_graph", "analysis/features"],
            ["coverage", "gate_helps", "has_edges"],
        ),
        "models/forecasts": (
            "models",
            ["analysis/features", "models/gnn_model"],
            ["beats_baselines", "has_skill"],
        ),
        "streams/queue_events": ("streams", [], []),
    }


def test_the_sensors_are_what_they_were_and_run_by_default():
    """A safety net that has to be switched on by hand is missing when it is needed."""
    definitions = build_definitions(Settings())
    assert {sensor.name: sensor.default_status.value for sensor in definitions.sensors} == {
        "queue_events": "RUNNING",
        "self_healing": "RUNNING",
        "run_failures": "RUNNING",
        "run_cancellations": "RUNNING",
    }


def test_candles_that_only_models_need_are_assets_too_and_the_sensors_know_them():
    """An interval for models alone: what brought its days was taken for no asset's, and never healed."""
    settings = Settings(intervals=("1m",), model_interval="5m")
    keys = build_definitions(settings).resolve_asset_graph().get_all_asset_keys()
    known = {dataset.name for dataset in settings.market_datasets}
    assert known == {"trades", "candles_1m", "candles_5m"}
    assert {key.path[-1] for key in keys if key.path[0] == "market"} == known


def test_definitions_load_offline_with_an_empty_environment(monkeypatch):
    definitions = build_definitions(Settings(exchange="binance", rest_url="http://127.0.0.1:9"))
    dg.Definitions.validate_loadable(definitions)


def test_the_daily_schedule_asks_for_the_day_that_has_ended(settings):
    schedule = daily_market_data([market_asset(settings, TRADES)])
    with open_instance(settings) as instance:
        instance.add_dynamic_partitions("symbols", ["BTCUSDT", "ETHUSDT"])
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=datetime(2024, 8, 5, 0, 30, tzinfo=UTC)
        )
        requests = list(schedule(context))
    assert [request.partition_key for request in requests] == ["2024-08-04|BTCUSDT", "2024-08-04|ETHUSDT"]


def test_the_nightly_models_are_of_the_day_that_has_ended(settings):
    schedule = daily_models(modelling_assets(settings))
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2024, 8, 5, 2, 30, tzinfo=UTC))
    assert schedule(context).partition_key == "2024-08-04"


def test_what_dagster_loads_needs_no_torch_and_no_plots():
    """The daemon, the web server and every run worker load the definitions: each import costs all of them."""
    code = (
        "import sys; import streamforge_assets.definitions as d; from resources.settings import Settings;"
        " d.build_definitions(Settings());"
        " heavy = ('torch', 'matplotlib', 'lightgbm', 'dagster_k8s', 'aiokafka', 'prometheus_client');"
        " print([m for m in heavy if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
