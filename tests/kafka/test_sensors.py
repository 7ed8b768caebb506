"""The sensor `queue_events` on real brokers: one that goes away and comes back, and one that knows who asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from resources.settings import Settings
from sensors.queue_events import STREAM, queue_events
from streamforge_assets.partitions import SYMBOLS, market_asset_key
from tests.sensors.made import DAY, SYMBOL, event, publish, stored
from tests.servers.kafka import Kafka


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        made.add_dynamic_partitions(str(SYMBOLS.name), [SYMBOL])
        yield made


def test_after_the_broker_was_away_it_goes_on_where_it_was(
    broker: Kafka, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, bus="kafka", kafka_bootstrap=broker.bootstrap, kafka_patience=10)
    sensor = queue_events(settings)
    stored(settings, DAY)
    publish(settings, [b"?", event(None)])
    first = sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(first, dg.SensorResult)
    assert json.loads(str(first.cursor)) == {"v": 1, "topic": "queue-events", "offsets": {"0": 2}}
    broker.kill(1)
    try:
        skipped = sensor(dg.build_sensor_context(instance=instance, cursor=first.cursor))
        assert isinstance(skipped, dg.SkipReason)
        assert broker.bootstrap in str(skipped.skip_message)
    finally:
        broker.launch(1)
        broker.await_ready(1)
    publish(settings, [event()])
    after = sensor(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    assert isinstance(after, dg.SensorResult)
    materialised, stream = after.asset_events
    assert isinstance(materialised, dg.AssetMaterialization)
    assert (materialised.asset_key, materialised.partition) == (market_asset_key("trades"), f"{DAY}|{SYMBOL}")
    assert materialised.metadata["offset_start"].value == 2
    assert (stream.asset_key, stream.metadata["messages"].value) == (STREAM, 1)
    assert json.loads(str(after.cursor))["offsets"] == {"0": 3}
