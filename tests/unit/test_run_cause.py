"""Why a run failed, read from Dagster's events."""

import dagster as dg
import pytest

from streamforge_assets.remote_dagster import failure_in
from streamforge_assets.run_cause import step_cause

ENGINE = {"__typename": "EngineEvent", "message": "Started process for run (pid: 12)."}
DIED = "Run execution process for 1a2b was terminated by signal 9 (SIGKILL)."
KILLED = {"__typename": "EngineEvent", "message": f"[DagsterApiServer] {DIED}"}
OTHER = {"__typename": "LogMessageEvent"}


def run(message: str) -> dict:
    return {"__typename": "RunFailureEvent", "message": message}


def step(description: str | None, message: str = "dagster.Failure", causes: tuple[str, ...] = ()) -> dict:
    return {
        "__typename": "ExecutionStepFailureEvent",
        "failureMetadata": {"description": description} if description else None,
        "error": {"message": message, "causes": [{"message": cause} for cause in causes]},
    }


OUTSIDE = run("This run has been marked as failed from outside the execution context.")


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        (
            [ENGINE, OTHER, step("5 of 5 days could not be made"), run("Steps failed")],
            "5 of 5 days could not be made",
        ),
        ([step(None, "a\n", ("b\n", "disk full\n")), run("Steps failed")], "disk full"),
        ([step(None, "out of luck\n"), run("Steps failed")], "out of luck"),
        ([ENGINE, KILLED, OUTSIDE], DIED),
        ([OUTSIDE], OUTSIDE["message"]),
        (
            [ENGINE, run("Run timed out due to taking longer than 180 seconds to start.")],
            "Run timed out due to taking longer than 180 seconds to start.",
        ),
        ([ENGINE, run("")], "Dagster does not say why"),
        ([ENGINE], ""),
        ([], ""),
    ],
)
def test_the_cause_is_that_of_the_step_or_of_the_process(events, sentence):
    assert failure_in(events) == sentence


def full():
    raise OSError("disk full")


def full_while_writing():
    try:
        full()
    except OSError as error:
        raise RuntimeError("a day could not be written") from error


def short():
    raise dg.Failure("5 of 5 days could not be made")


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (full, "OSError: disk full"),
        (full_while_writing, "OSError: disk full"),
        (short, "5 of 5 days could not be made"),
    ],
)
def test_the_cause_of_a_step_is_its_own_sentence_or_what_was_first_raised(work, sentence):
    @dg.op
    def step():
        work()

    @dg.job
    def job():
        step()

    events = job.execute_in_process(raise_on_error=False).all_events
    (failed,) = [event for event in events if event.is_step_failure]
    assert step_cause(failed.step_failure_data) == sentence
