"""The sensor `queue_events` on the embedded bus and an ephemeral Dagster instance."""

import asyncio
import json
import sqlite3
import time
from datetime import timedelta

import dagster as dg
import pytest

from resources.errors import Rejected
from resources.settings import Settings
from sensors import queue_events as module
from sensors.queue_events import STREAM, queue_events
from streamforge_assets.partitions import SYMBOLS, market_asset_key
from tests.sensors.made import DAY, SYMBOL, event, keep, publish, stored, workflow

TRADES = market_asset_key("trades")


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        made.add_dynamic_partitions(SYMBOLS.name, [SYMBOL])
        yield made


@pytest.fixture
def tick(settings, instance):
    """Evaluate the sensor as the daemon would: events are kept, then the cursor."""
    state = {"cursor": None}

    def run(cursor=None, settings=settings):
        context = dg.build_sensor_context(instance=instance, cursor=cursor or state["cursor"])
        result = queue_events(settings)(context)
        if isinstance(result, dg.SensorResult):
            for one in result.asset_events:
                instance.report_runless_asset_event(one)
            state["cursor"] = result.cursor
        return result

    run.state = state
    return run


def materialised(instance):
    return instance.get_materialized_partitions(TRADES)


def observed(result, key=TRADES):
    return [
        {name: value.value for name, value in one.metadata.items()}
        for one in result.asset_events
        if isinstance(one, dg.AssetObservation) and one.asset_key == key
    ]


def test_what_was_written_outside_a_run_is_materialised_once(settings, instance, tick):
    version = stored(settings, DAY)
    publish(settings, [event(), event(None, status="finished", finished=True, watermark=str(DAY))])
    first = tick()
    assert materialised(instance) == {f"{DAY}|{SYMBOL}"}
    (one,) = [one for one in first.asset_events if isinstance(one, dg.AssetMaterialization)]
    shown = {name: value.value for name, value in one.metadata.items()}
    assert (shown["version"], shown["topic"], shown["offset_start"], shown["offset_end"]) == (
        version,
        "queue-events",
        0,
        1,
    )
    assert json.loads(first.cursor) == {"v": 1, "topic": "queue-events", "offsets": {"0": 2}}
    again = tick()
    assert (again.asset_events, again.cursor) == ([], first.cursor)


def test_a_lost_or_broken_cursor_is_said_and_materialises_nothing_twice(settings, instance, tick):
    """Between a materialisation and the cursor the daemon may die: the next tick reads the same events."""
    stored(settings, DAY)
    publish(settings, [event()])
    tick()
    result = tick(cursor="{broken")
    assert not [one for one in result.asset_events if isinstance(one, dg.AssetMaterialization)]
    assert observed(result)[0]["not_materialised"] == "it was materialised as it is stored"
    (stream,) = observed(result, STREAM)
    assert "'{broken' cannot be used" in stream["warnings"]
    assert "'{broken' cannot be used" in result.skip_reason.skip_message
    assert json.loads(result.cursor)["offsets"] == {"0": 1}


def test_the_days_of_a_run_are_only_observed(settings, instance, tick):
    made = workflow(run_id="the-run")
    stored(settings, DAY)
    keep(settings, made)
    publish(settings, [event(queue_id=made.queue_id, lag=3)])
    (one,) = observed(tick())
    assert materialised(instance) == set()
    assert (one["lag"], "the-run" in one["not_materialised"]) == (3, True)


def test_a_day_with_a_hole_is_not_materialised(settings, instance, tick):
    stored(settings, DAY, missing=True)
    publish(settings, [event()])
    assert "missing without an explanation" in observed(tick())[0]["not_materialised"]
    assert materialised(instance) == set()


def test_broken_messages_and_broken_documents_do_not_stop_the_rest(settings, instance, tick):
    stored(settings, DAY)
    made = workflow()
    keep(settings, made.model_copy(update={"state": "nonsense"}))
    publish(settings, [b"?", event(queue_id=made.queue_id), b"??"])
    result = tick()
    (stream,) = observed(result, STREAM)
    assert stream["broken"] == 2
    assert f"the document of the workflow {made.queue_id} cannot be read: state" in stream["warnings"]
    assert materialised(instance) == {f"{DAY}|{SYMBOL}"}
    assert json.loads(result.cursor)["offsets"] == {"0": 3}


def test_more_days_than_a_tick_has_room_for_come_with_the_next_ones(settings, instance, tick, monkeypatch):
    monkeypatch.setattr(module, "ROOM", 2)
    days = [DAY + timedelta(days=number) for number in range(5)]
    for day in days:
        stored(settings, day)
    publish(settings, [event(day) for day in days])
    assert [observed(tick(), STREAM)[0]["lag"] for _ in range(3)] == [3, 1, 0]
    assert materialised(instance) == {f"{day}|{SYMBOL}" for day in days}


def test_while_the_bus_is_away_it_skips_with_the_reason_and_then_goes_on_where_it_was(
    settings, instance, tick, tmp_path
):
    stored(settings, DAY)
    publish(settings, [b"?", event()])
    tick()
    cursor = tick.state["cursor"]
    away = Settings(home=settings.home, bus="kafka", kafka_bootstrap="127.0.0.1:9", kafka_patience=1)
    began = time.monotonic()
    skipped = tick(settings=away)
    assert time.monotonic() - began < 15
    assert isinstance(skipped, dg.SkipReason)
    assert "nothing listens at 127.0.0.1:9" in skipped.skip_message
    assert tick.state["cursor"] == cursor
    publish(settings, [event(DAY + timedelta(days=1))])
    result = tick()
    assert observed(result, STREAM)[0]["messages"] == 1
    assert json.loads(result.cursor)["offsets"] == {"0": 3}


def test_a_bus_that_hangs_ends_with_the_budget(settings, tick, monkeypatch):
    monkeypatch.setattr(module, "BUDGET", 0.2)

    async def hang(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "_read", hang)
    result = tick()
    assert isinstance(result, dg.SkipReason)
    assert "goes on where it was" in result.skip_message


def test_a_bus_that_refuses_for_good_fails_the_tick(settings, tick):
    """A skipped tick looks healthy; a wrong password must not."""
    (settings.home).mkdir(parents=True)
    (settings.home / "bus.sqlite").write_bytes(b"this is no database, and never was one" * 100)
    with pytest.raises(Rejected, match="damaged"):
        tick()


def test_what_retention_took_is_said_with_its_size(settings, instance, tick):
    publish(settings, [b"?"] * 3)
    tick()
    publish(settings, [event(DAY + timedelta(days=number)) for number in range(5)])
    with sqlite3.connect(settings.home / "bus.sqlite") as db:
        db.execute("DELETE FROM messages WHERE id & ((1 << 40) - 1) < 6")
    db.close()
    result = tick()
    (stream,) = observed(result, STREAM)
    assert (stream["lost"], stream["messages"]) == (3, 2)
    assert "3 messages of partition 0 of queue-events were removed" in result.skip_reason.skip_message
    assert json.loads(result.cursor)["offsets"] == {"0": 8}


def test_without_a_topic_it_waits_quietly(settings, tick):
    result = tick()
    assert result.asset_events == []
    assert result.skip_reason.skip_message == "nothing new on queue-events"
