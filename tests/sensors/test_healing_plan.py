"""What becomes of workflows that lost their coordinator: decisions only."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.metrics import HEAL_SECONDS, HEALS, UNHEALED
from sensors.healing_plan import healing_meter, lost, plan_healing
from streamforge_assets.workflow.healing import HealingPolicy
from streamforge_assets.workflow.states import Incident
from streamforge_assets.workflow.takeover import LEFT_ALONE
from tests.sensors.made import DAY, END, workflow

NOW = datetime(2024, 9, 1, 12, tzinfo=UTC)
POLICY = HealingPolicy(silence=30, start_limit=60, attempts=3, rerun_after=60, quarantine_after=3)


def ago(seconds):
    return NOW - timedelta(seconds=seconds)


def running(quiet, **changes):
    return workflow(**{"state": "running", "created_at": ago(quiet + 1), "updated_at": ago(quiet), **changes})


def failed(seconds, **changes):
    """A workflow whose coordinator was found gone so long ago."""
    return lost(running(seconds + 60, **changes), "it was gone", now=ago(seconds))


def plan(*known):
    return plan_healing(sorted(known, key=lambda one: one.created_at), POLICY, now=NOW)


def test_one_that_has_been_silent_too_long_fails_with_the_loss_in_its_history():
    (ended,) = plan(running(LEFT_ALONE + 1), running(LEFT_ALONE - 1)).ended
    assert ended.state == "failed"
    assert ended.history[-1].worker == "coordinator"
    assert "no sign of life for 61 s" in ended.message


@pytest.mark.parametrize("state", ["finished", "failed", "cancelled"])
def test_one_that_is_over_is_let_be_unless_it_lost_its_coordinator(state):
    made = plan(running(10 * LEFT_ALONE, state=state))
    assert (made.ended, made.noted, made.reruns, made.waiting) == ([], [], [], [])


@pytest.mark.parametrize(("losses", "waited", "expected"), [(1, 59, 0), (1, 60, 1), (2, 119, 0), (2, 120, 1)])
def test_a_lost_one_runs_again_after_the_policys_wait(losses, waited, expected):
    """The wait doubles with each failure in a row of the same days."""
    made = plan(*[failed(waited + 1000 * number) for number in range(losses)])
    assert len(made.reruns) == expected
    assert len(made.reruns) + len(made.waiting) == 1, "an older one was taken over by the next"


def test_after_too_many_failures_in_a_row_only_a_person_starts_it_and_that_is_said_once():
    known = [failed(200 + 1000 * number) for number in range(3)]
    made = plan(*known)
    assert made.reruns == []
    quarantined = next(one for one in made.noted if "only a person starts it again" in one.message)
    assert "failed 3 times in a row" in quarantined.message
    changed = {one.queue_id: one for one in made.noted}
    again = plan(*[changed.get(one.queue_id, one) for one in known])
    assert (again.reruns, again.noted) == ([], [])


def test_a_later_workflow_of_the_same_days_heals_it():
    one = failed(100)
    made = plan(one, running(1, created_at=ago(40)))
    assert made.reruns == []
    assert made.noted[0].history[-1].healed_in == 60


def test_one_that_was_started_again_before_the_loss_was_noticed_is_healed_at_once():
    """Whoever repeats a killed backfill at once must not get a second run of the same days a minute later."""
    made = plan(failed(100), running(1, created_at=ago(150)))
    assert (made.reruns, made.noted[0].history[-1].healed_in) == ([], 0)


@pytest.mark.parametrize("other", [{"symbol": "ETHUSDT"}, {"dataset": "candles_5m"}, {"end": DAY}])
def test_one_of_other_days_does_not(other):
    assert len(plan(failed(100), running(1, created_at=ago(40), **other)).reruns) == 1


def test_an_old_loss_starts_nothing_any_more():
    made = plan(failed(90_000))
    assert (made.reruns, made.noted) == ([], [])


@given(st.lists(st.tuples(st.sampled_from(["running", "failed", "finished"]), st.integers(0, 5000)), max_size=12))
def test_asking_again_after_acting_asks_for_nothing_new(script):
    moments = [(state, quiet + number / 1000) for number, (state, quiet) in enumerate(script)]  # no two alike
    known = [
        failed(quiet) if state == "failed" else running(quiet, state=state, end=END) for state, quiet in moments
    ]
    first = plan(*known)
    changed = {one.queue_id: one for one in (*first.ended, *first.noted)}
    second = plan(*[changed.get(one.queue_id, one) for one in known])
    assert second.ended == []
    assert {one.queue_id for one in second.reruns} <= {one.queue_id for one in first.reruns}


def test_the_metrics_count_what_the_documents_say():
    healed = failed(500).healed("coordinator", 12.5)
    worker = Incident(at=NOW, worker="loader-producer__1", attempt=1, cause="it hung", healed_in=2.0)
    meter = healing_meter([healed, failed(100), running(1, history=(worker, worker))])
    assert meter.value(HEALS, "coordinator") == 1
    assert meter.value(HEAL_SECONDS, "coordinator") == 12.5
    assert meter.value(UNHEALED, "coordinator") == 1
    assert (meter.value(HEALS, "loader-producer"), meter.value(HEAL_SECONDS, "loader-producer")) == (2, 4.0)
