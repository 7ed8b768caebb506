from datetime import date

import pytest

from resources.datasets import parse_dataset
from resources.errors import Rejected
from resources.messages import (
    ControlMessage,
    EventMessage,
    decode_control,
    decode_event,
    encode,
    parse_time_range,
    time_range,
)
from streamforge_assets.workers.job import read_job
from streamforge_assets.workflow.states import new_workflow


def test_a_newer_senders_unknown_field_survives():
    event = decode_event(
        b'{"queue_id":"wf-1","producer":"p","symbol":"S","type":"api_trades","status":"loading","message":"m","lag":7}'
    )
    assert event.model_extra == {"lag": 7}
    assert b'"lag":7' in encode(event)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b'{"command":"start"}', "queue_id"),
        (b'{"command":"go","queue_id":"q","target":"t"}', "command"),
    ],
)
def test_what_is_not_a_command_is_refused_by_name(value, named):
    with pytest.raises(Rejected, match=named):
        decode_control(value)


def test_both_messages_survive_the_wire():
    command = ControlMessage(command="stop", queue_id="wf-1", target="arango-connector")
    event = EventMessage(
        queue_id="wf-1", producer="p", symbol="S", type="api_trades", status="finished", message="", finished=True
    )
    assert decode_control(encode(command)) == command
    assert decode_event(encode(event)) == event


def test_time_ranges_are_half_open_and_refused_when_empty():
    assert parse_time_range(time_range(date(2024, 8, 1), date(2024, 8, 3))) == (date(2024, 8, 1), date(2024, 8, 3))
    for text in ("2024-08-01", "a:b", "2024-08-01:2024-08-01", "2024-08-02:2024-08-01"):
        with pytest.raises(Rejected, match="time range"):
            parse_time_range(text)


def test_a_workflow_is_named_as_the_design_says():
    workflow = new_workflow(
        parse_dataset("candles_5m"), "BTCUSDT", date(2024, 8, 1), date(2024, 8, 2), "{symbol}_{type}_{start}"
    )
    assert workflow.queue_id.startswith("wf-btcusdt-api_candles_5m-20240801-")
    assert workflow.collection == "btcusdt_api_candles_5m_2024_08_01"


def test_a_worker_without_a_variable_says_which():
    with pytest.raises(Rejected, match="TIME_RANGE"):
        read_job({"QUEUE_ID": "wf-1"})
