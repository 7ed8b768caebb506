"""When a worker counts as hung, and how often it is started anew. Pure decisions; the coordinator acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["healthy", "restart", "give up"]


@dataclass(frozen=True, slots=True)
class HealingPolicy:
    """Limits of patience.

    Args:
        silence: seconds without an event after which a worker counts as hung.
        attempts: starts of one worker, the first included.
        backoff: seconds before the second start; doubles with each further one.
    """

    silence: float
    attempts: int
    backoff: float = 0.5

    def judge(self, *, quiet: float, failed: bool, retriable: bool, attempt: int) -> Verdict:
        """Decide about a worker that has been quiet for `quiet` seconds, or has failed."""
        if not failed and quiet < self.silence:
            return "healthy"
        if attempt >= self.attempts or (failed and not retriable):
            return "give up"
        return "restart"

    def delay(self, attempt: int) -> float:
        """Seconds to wait before the start that follows the given attempt."""
        return float(self.backoff * 2 ** (attempt - 1))
