from datetime import date

from resources.launcher import WorkerState
from resources.messages import EventMessage
from streamforge_assets.workflow.seats import LAST_WORD, Seat


def event(status="loading", producer="loader__1", **more):
    given = {"queue_id": "wf", "symbol": "S", "type": "api_trades", "message": "said", **more}
    return EventMessage(producer=producer, status=status, **given)


def taken() -> Seat:
    seat = Seat("loader_api_trades", "loader-producer")
    seat.take("loader__1", now=100.0)
    return seat


def test_events_of_a_replaced_worker_are_ignored():
    """A zombie that says it has finished would end a workflow whose data are not there."""
    seat = taken()
    seat.take("loader__2", now=101.0)
    assert not seat.hear(event("finished", finished=True), now=102.0)
    assert not seat.finished
    assert seat.health(now=102.0).quiet == 1.0


def test_a_worker_that_ended_has_a_moment_for_its_last_event_and_is_gone_then():
    seat = taken()
    seat.see(WorkerState("running"), now=101.0)
    assert not seat.health(now=150.0).gone
    seat.see(WorkerState("failed", "killed by SIGKILL"), now=150.0)
    assert not seat.health(now=150.0).gone
    seat.see(WorkerState("failed", "killed by SIGKILL"), now=150.5)
    assert seat.health(now=150.0 + LAST_WORD).gone
    assert "killed by SIGKILL" in seat.cause(now=152.0, silence_limit=30)


def test_a_stored_day_makes_the_next_fruitless_start_the_second_again():
    seat = taken()
    for number in (2, 3):
        seat.take(f"loader__{number}", now=100.0 + number)
    assert seat.health(now=104.0).tries == 3
    seat.hear(event(producer="loader__3", partition=date(2024, 8, 1), stored=True), now=104.0)
    assert seat.health(now=104.0).tries == 3, "a day that was there already is no progress"
    seat.hear(event(producer="loader__3", partition=date(2024, 8, 2)), now=105.0)
    assert seat.health(now=105.0).tries == 1
    assert seat.attempt == 3, "the fence never goes back"


def test_records_of_all_its_workers_add_up():
    seat = taken()
    seat.hear(event(records_written=5), now=101.0)
    seat.hear(event(records_written=7), now=102.0)
    seat.take("loader__2", now=103.0)
    seat.hear(event(producer="loader__2", records_written=3), now=104.0)
    assert seat.records == 10


def test_an_error_that_cannot_be_mended_says_so():
    seat = taken()
    seat.hear(event("error", finished=True, message="no such symbol", retriable=False), now=101.0)
    health = seat.health(now=101.0)
    assert (health.failed, health.retriable) == (True, False)
    assert seat.cause(now=101.0, silence_limit=30) == "no such symbol"


def test_a_worker_that_stopped_although_nobody_asked_has_failed():
    seat = taken()
    seat.hear(event("interrupted", finished=True), now=101.0)
    assert seat.health(now=101.0).failed
    assert not seat.finished


def test_silence_that_nobody_could_have_broken_is_not_held_against_a_worker():
    seat = taken()
    seat.excuse(now=150.0)
    assert seat.health(now=151.0).quiet == 1.0
