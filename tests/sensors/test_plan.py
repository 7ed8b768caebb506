"""What a tick tells Dagster, decided from what was read: no bus, no store, no Dagster instance."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.bus import Gap
from resources.datasets import Partition
from sensors.plan import Known, plan_tick
from sensors.tally import Tally, partition_of
from tests.sensors.made import DAY, SYMBOL, deliveries, entry, event, workflow

TRADES = Partition("trades", SYMBOL, DAY)


def known(**changes):
    given = {
        "workflows": {},
        "entries": {TRADES: entry()},
        "versions": {},
        "datasets": {"trades"},
        "symbols": {SYMBOL},
        "first_day": date(2024, 1, 1),
        "today": date(2024, 9, 1),
    }
    return Known(**{**given, **changes})


def tallied(*events, room=100, start=0):
    tally = Tally("queue-events", {0: start}, room)
    for one in deliveries(events, first=start):
        if not tally.add(one):
            break
    return tally


def planned(tally, facts=None, *, gaps=(), complaints=(), ends=None):
    ends = ends or {0: tally.offsets[0]}
    return plan_tick(tally, facts or known(), ends=ends, gaps=gaps, complaints=complaints)


@pytest.mark.parametrize(
    ("one", "facts", "reason"),
    [
        (event(), known(), ""),
        (event(type="ws_trades"), known(), ""),
        (event(), known(versions={TRADES: "v0"}), ""),
        (event(), known(workflows={"wf-1": workflow(queue_id="wf-1")}), ""),
        (event(), known(workflows={"wf-1": workflow(queue_id="wf-1", run_id="r")}), "the run r that asked for it"),
        (event(), known(versions={TRADES: "v1"}), "was materialised as it is stored"),
        (event(), known(entries={}), "the ledger does not know it"),
        (event(), known(entries={TRADES: entry(missing=True)}), "5 records are missing"),
        (event(failed=True), known(), "no event says that it was written"),
        (event(stored=True), known(), "no event says that it was written"),
        (event(None, watermark=str(DAY)), known(), "no event says that it was written"),
    ],
)
def test_a_partition_is_materialised_only_when_it_is_new_whole_and_nobody_elses(one, facts, reason):
    (report,) = planned(tallied(one), facts).reports
    assert report.key == f"{DAY}|{SYMBOL}"
    assert report.materialised is not bool(reason)
    assert reason in report.metadata.get("not_materialised", "")
    if report.materialised:
        assert report.metadata["version"] == "v1"
        assert report.metadata["dagster/row_count"] == 10


def test_the_events_of_a_partition_become_one_with_their_offsets():
    beats = [event(None, watermark=str(DAY), lag=lag, records_written=9) for lag in (7, 5, 3)]
    (report,) = planned(tallied(event(), *beats, start=40)).reports
    shown = dict(report.metadata)
    assert (shown["topic"], shown["partition"], shown["offset_start"], shown["offset_end"]) == (
        "queue-events",
        0,
        40,
        43,
    )
    assert (shown["events"], shown["rows_written"], shown["lag"], shown["records_total"]) == (4, 10, 3, 9)


def test_what_cannot_be_read_is_counted_named_and_passed():
    tally = tallied(b"{", event(), *[b"\xff"] * 9)
    plan = planned(tally)
    assert tally.offsets == {0: 11}, "the cursor is behind them"
    assert plan.stream["broken"] == 10
    assert "partition 0, offset 0:" in plan.stream["warnings"]
    assert "and 5 more" in plan.stream["warnings"]
    assert [report.materialised for report in plan.reports] == [True]


def test_a_gap_and_a_lost_place_are_said():
    plan = planned(tallied(), gaps=[Gap("queue-events", 0, 10, 60)], complaints=["", "the cursor is broken"])
    assert plan.stream["lost"] == 50
    assert plan.warnings[0] == "the cursor is broken"
    assert "50 messages of partition 0 of queue-events were removed" in plan.stream["warnings"]


@pytest.mark.parametrize(
    "one",
    [
        event(symbol="NOBODY"),
        event(type="api_candles_5m"),
        event(date(2023, 12, 31)),
        event(date(2024, 9, 1)),
    ],
)
def test_what_is_no_assets_partition_is_named_and_not_reported(one):
    plan = planned(tallied(one))
    assert plan.reports == []
    assert "1 partitions are of no asset" in plan.stream["warnings"]


def test_without_news_there_is_nothing_to_say():
    assert planned(tallied()).stream == {}


def test_a_tick_stops_where_its_room_ends_and_the_next_goes_on_there():
    days = [DAY + timedelta(days=number) for number in range(3)]
    tally = tallied(event(days[0]), event(days[1]), event(days[0]), event(days[2]), event(days[0]), room=2)
    assert (len(tally.sums), tally.offsets) == (2, {0: 3})
    assert planned(tally, ends={0: 5}).stream["lag"] == 2


@pytest.mark.parametrize("kind", ["", "pong", "api_candles_7m", "ws_orderbook"])
def test_events_of_no_dataset_belong_to_no_partition(kind):
    assert partition_of(event(type=kind)) is None


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["done", "beat", "broken"])), max_size=60),
    st.integers(1, 4),
)
def test_ticks_of_any_size_see_every_message_once_and_always_move_on(script, room):
    makers = {"done": event, "beat": lambda day: event(None, watermark=str(day)), "broken": lambda day: b"?"}
    messages = deliveries([makers[kind](DAY + timedelta(days=number)) for number, kind in script])
    offset = seen = broken = 0
    while offset < len(messages):
        tally = Tally("queue-events", {0: offset}, room)
        for one in messages[offset:]:
            if not tally.add(one):
                break
        assert tally.offsets[0] > offset, "a full tick must not stand still"
        assert tally.messages == tally.offsets[0] - offset
        assert len(planned(tally, ends={0: len(messages)}).reports) <= room
        offset, seen, broken = tally.offsets[0], seen + tally.messages, broken + tally.broken
    assert (seen, broken) == (len(script), sum(kind == "broken" for _, kind in script))
