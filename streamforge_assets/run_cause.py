"""Why a Dagster run failed, in one sentence, from what its log says. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster._core.execution.plan.objects import StepFailureData

_FROM_OUTSIDE = "from outside the execution context."


def run_cause(message: str, engine: str) -> str:
    """The cause in the message of a run's failure.

    Of a run that Dagster found dead, it says only that it was marked so from outside; what happened to the process
    is in the event before.

    Args:
        message: of the run's failure; empty where there is none.
        engine: the last message of Dagster's engine about the run, such as `[DagsterApiServer] Run execution
            process for 1a2b was terminated by signal 9 (SIGKILL).`
    """
    if engine and message.endswith(_FROM_OUTSIDE):
        return engine.partition("] ")[2] or engine
    return message or "Dagster does not say why"


def step_cause(failure: StepFailureData) -> str:
    """The cause of a step's failure: the step's own sentence, or what was first raised; empty without either."""
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else ""
