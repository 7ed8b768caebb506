"""How long a worker bears with something that does not answer: exponential backoff with jitter, and an end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

from resources.errors import Unavailable
from resources.metrics import RETRIES, Meter
from streamforge_assets.workers.runtime import log


@dataclass
class Patience:
    """Waits between tries. What succeeds in between makes the next trouble the first one again.

    Args:
        meter: where repeats are counted.
        stop: ends a wait early.
        attempts: tries in a row without a success before it gives up.
        first: seconds of the first wait; doubles with each further one.
        longest: seconds of the longest wait.
    """

    meter: Meter
    stop: asyncio.Event
    attempts: int = 10
    first: float = 0.1
    longest: float = 10.0
    _failed: int = field(default=0, init=False)

    def succeeded(self) -> None:
        """Something went well."""
        self._failed = 0

    async def bear(self, error: Unavailable, *, concerned: int = 1) -> None:
        """Wait before the next try, or raise `error` after the last one, or when asked to stop.

        Args:
            error: why the try failed.
            concerned: how many documents or batches are tried again.
        """
        self._failed += 1
        if self._failed >= self.attempts or self.stop.is_set():
            raise error
        # Half of the wait is chance, so that workers that failed together do not come back together.
        wait = min(self.first * 2 ** (self._failed - 1), self.longest) * random.uniform(0.5, 1)
        self.meter.add(RETRIES, concerned)
        log.warning("try %d of %d in %.1f s: %s", self._failed + 1, self.attempts, wait, error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), wait)
