"""When a worker counts as hung, how often it is started anew, and when a failed workflow may run again.

Pure decisions: whoever holds the policy acts. The coordinator asks it about the workers of a live run, and whoever
looks after workflows without a live run asks it when they may run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resources.messages import Status
from resources.settings import Settings

Verdict = Literal["healthy", "restart", "give up"]


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a worker.

    Attributes:
        status: of its last event; `pending` before the first.
        quiet: seconds since its last event, or since its start.
        gone: it has ended without a last event.
        failed: it reported an error, or stopped although nobody asked it to.
        retriable: it did not say that trying again cannot help.
        tries: starts in a row that brought nothing, this one included.
    """

    status: Status = "pending"
    quiet: float = 0.0
    gone: bool = False
    failed: bool = False
    retriable: bool = True
    tries: int = 1


@dataclass(frozen=True, slots=True)
class HealingPolicy:
    """Limits of patience, in seconds and numbers.

    Args:
        silence: seconds without an event after which a worker that has reported before counts as hung.
        start_limit: the same for one that has not reported yet: it has to be placed and loaded first.
        attempts: starts of one worker in a row that may bring nothing, the first included.
        backoff: seconds before the second start; doubles with each further one.
        backoff_limit: longest wait before a start.
        rerun_after: seconds before a failed workflow may run again by itself; doubles with each failure.
        quarantine_after: failures in a row after which only a person may start the workflow again.
    """

    silence: float
    start_limit: float
    attempts: int
    backoff: float = 0.5
    backoff_limit: float = 10.0
    rerun_after: float = 60.0
    quarantine_after: int = 3

    def silence_limit(self, status: Status) -> float:
        """Seconds without an event that a worker of this status may take."""
        return self.start_limit if status == "pending" else self.silence

    def judge(self, health: Health) -> Verdict:
        """Decide about a worker that has not finished."""
        hung = health.quiet >= self.silence_limit(health.status)
        if not (health.failed or health.gone or hung):
            return "healthy"
        if health.tries >= self.attempts or (health.failed and not health.retriable):
            return "give up"
        return "restart"

    def delay(self, tries: int, *, chance: float) -> float:
        """Seconds to wait before the start that follows `tries` fruitless ones.

        Args:
            tries: starts in a row that brought nothing.
            chance: a random number in [0, 1], which spreads the starts of workers that failed together over
                the upper half of the wait.
        """
        wait = min(self.backoff * 2.0 ** (max(tries, 1) - 1), self.backoff_limit)
        return wait * (0.5 + 0.5 * chance)

    def runs_again_at(self, failures: Sequence[float]) -> float | None:
        """When a workflow may run again by itself; None: it is in quarantine, only a person may start it.

        Args:
            failures: the moments at which it failed since it last succeeded, in seconds since the epoch.
        """
        if not failures:
            return 0.0
        if len(failures) >= self.quarantine_after:
            return None
        return float(max(failures) + self.rerun_after * 2 ** (len(failures) - 1))


def policy_of(settings: Settings) -> HealingPolicy:
    """The policy that the settings describe."""
    return HealingPolicy(settings.silence_limit, settings.start_limit, settings.worker_attempts)
