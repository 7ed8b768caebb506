"""The sensors' cursor: what is kept comes back, and what cannot be used is said and read again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensors.cursor import next_cursor, parse_cursor

TOPIC = "queue-events"
OFFSETS = st.dictionaries(st.integers(0, 999), st.integers(0, 2**62))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_the_text_is_what_the_design_says():
    assert json.loads(next_cursor(TOPIC, {0: 123})) == {"v": 1, "topic": TOPIC, "offsets": {"0": 123}}


@given(OFFSETS)
def test_what_is_kept_comes_back(offsets):
    text = next_cursor(TOPIC, offsets)
    assert parse_cursor(text, TOPIC) == (offsets, "")
    assert next_cursor(TOPIC, dict(reversed(offsets.items()))) == text


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_cursor_reading_begins_at_the_beginning_quietly(text):
    assert parse_cursor(text, TOPIC) == ({}, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("17", "not of version 1"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"v": 2, "topic": "queue-events", "offsets": {"0": 1}}', "not of version 1"),
        ('{"v": true, "topic": "queue-events", "offsets": {"0": 1}}', "not of version 1"),
        ('{"v": 1, "topic": "other", "offsets": {"0": 1}}', "not of the topic queue-events"),
        ('{"v": 1, "topic": "queue-events"}', "not numbers by partition"),
        ('{"v": 1, "topic": "queue-events", "offsets": {"0": -1}}', "not numbers by partition"),
        ('{"v": 1, "topic": "queue-events", "offsets": {"0": true}}', "not numbers by partition"),
        ('{"v": 1, "topic": "queue-events", "offsets": {"zero": 1}}', "not numbers by partition"),
        ('{"v": 1, "topic": "queue-events", "offsets": {"0": 1.5}}', "not numbers by partition"),
    ],
)
def test_a_cursor_that_cannot_be_used_is_reset_and_says_why(text, reason):
    place = parse_cursor(text, TOPIC)
    assert place.offsets == {}
    assert reason in place.complaint
    assert "begins at the topic's beginning" in place.complaint
    assert len(place.complaint) < 300


@given(JSON.map(json.dumps) | st.text())
def test_nothing_that_dagster_may_keep_breaks_a_tick(text):
    place = parse_cursor(text, TOPIC)
    assert all(offset >= 0 for offset in place.offsets.values())
