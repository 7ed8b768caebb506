"""What a worker reads from its environment: above all, which topics go to which collections."""

import asyncio
from datetime import date

import pytest

from resources.datasets import TRADES
from resources.errors import Rejected
from streamforge_assets.workers.job import MAX_TOPICS, Job, Route, read_job
from streamforge_assets.workers.loader import load_days

JOB = Job("wf-1", "arango-connector", "c__1", TRADES, "BTCUSDT", date(2024, 8, 1), date(2024, 8, 2), "data", "c")


def read(**changes):
    return read_job(JOB.environment() | changes)


def test_a_job_survives_its_environment():
    assert read_job(JOB.environment()) == JOB
    several = read(KAFKA_TOPIC="a, b,c", COLLECTION_NAME="trades,candles , trades")
    assert several.routes == (Route("a", "trades"), Route("b", "candles"), Route("c", "trades"))
    assert (several.topic, several.collection) == ("a", "trades")
    assert read_job(several.environment()) == several


def test_a_single_topic_needs_no_collection():
    environment = JOB.environment()
    del environment["COLLECTION_NAME"]
    assert read_job(environment).routes == (Route("data", ""),)
    assert read(COLLECTION_NAME="").routes == (Route("data", ""),)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"KAFKA_TOPIC": ""}, "KAFKA_TOPIC is ''; it must be a name"),
        ({"KAFKA_TOPIC": "a,,b", "COLLECTION_NAME": "x,y,z"}, "KAFKA_TOPIC is 'a,,b'"),
        ({"KAFKA_TOPIC": "a,b,", "COLLECTION_NAME": "x,y"}, "KAFKA_TOPIC is 'a,b,'"),
        ({"KAFKA_TOPIC": "a,b,a", "COLLECTION_NAME": "x,y,z"}, "KAFKA_TOPIC names a twice"),
        ({"KAFKA_TOPIC": "a,b"}, "COLLECTION_NAME names 1 and KAFKA_TOPIC 2"),
        ({"KAFKA_TOPIC": "a", "COLLECTION_NAME": "x,y"}, "COLLECTION_NAME names 2 and KAFKA_TOPIC 1"),
        ({"KAFKA_TOPIC": "a,b", "COLLECTION_NAME": "x, "}, "COLLECTION_NAME is 'x, '"),
        ({"KAFKA_TOPIC": "a,b", "COLLECTION_NAME": ""}, "COLLECTION_NAME is ''"),
        ({"KAFKA_TOPIC": ",".join(f"t{n}" for n in range(MAX_TOPICS + 1))}, f"KAFKA_TOPIC names {MAX_TOPICS + 1}"),
    ],
)
def test_wrong_lists_are_refused_in_one_sentence(changes, sentence):
    with pytest.raises(Rejected, match=sentence) as refusal:
        read(**changes)
    assert "\n" not in str(refusal.value)


def test_a_loader_does_not_pass_over_its_second_topic_in_silence():
    with pytest.raises(Rejected, match="one topic; KAFKA_TOPIC names 2"):
        asyncio.run(load_days(read(KAFKA_TOPIC="a,b", COLLECTION_NAME="x,y"), None, None, None))
