"""Why a Dagster run failed, in one sentence, from what its log says. Pure."""

from __future__ import annotations

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
