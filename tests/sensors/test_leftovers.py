"""What becomes of data topics that are left of workflows: decisions only."""

from datetime import UTC, datetime, timedelta

import pytest

from sensors.leftovers import AT_ONCE, GRACE, plan_sweep
from tests.sensors.made import workflow

NOW = datetime(2024, 9, 1, 12, tzinfo=UTC)
LONG = GRACE + timedelta(seconds=1)


def over(state, since=LONG):
    return workflow(state=state, updated_at=NOW - since)


def plan(topics, *known, queue_ids=()):
    return plan_sweep(topics, known, [*queue_ids, *(one.queue_id for one in known)], now=NOW)


@pytest.mark.parametrize(
    ("state", "since", "removed"),
    [
        ("finished", LONG, True),
        ("cancelled", LONG, True),
        ("finished", GRACE - timedelta(seconds=1), False),
        ("failed", timedelta(days=9), False),
        ("running", timedelta(days=9), False),
        ("pending", timedelta(days=9), False),
    ],
)
def test_only_topics_of_workflows_that_ended_well_or_were_cancelled_are_removed_after_a_while(
    state, since, removed
):
    one = over(state, since)
    made = plan([one.data_topic], one)
    assert [topic for topic, _ in made.leftovers] == ([one.data_topic] if removed else [])
    assert made.strangers == []


def test_topics_of_no_workflow_are_only_named():
    """Another StreamForge with a store of its own may share the brokers."""
    made = plan(["wf-theirs-data", "wf-a-data"], over("finished"))
    assert (made.leftovers, made.strangers) == ([], ["wf-a-data", "wf-theirs-data"])


def test_the_topic_of_a_workflow_whose_document_cannot_be_read_is_neither():
    made = plan(["wf-broken-data"], queue_ids=["wf-broken"])
    assert (made.leftovers, made.strangers) == ([], [])


def test_dead_letters_and_other_topics_are_let_be():
    one = over("finished")
    made = plan([f"{one.data_topic}.dlq", one.queue_id, "queue-events", "x-data", "doctor-data"], one)
    assert (made.leftovers, made.strangers) == ([], [])


def test_many_are_removed_in_several_ticks():
    known = [over("finished") for _ in range(AT_ONCE + 3)]
    topics = {one.data_topic for one in known}
    first = plan(topics, *known).leftovers
    assert len(first) == AT_ONCE
    assert len(plan(topics - {topic for topic, _ in first}, *known).leftovers) == 3
