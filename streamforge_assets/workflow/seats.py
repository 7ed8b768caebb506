"""A seat: the place in a workflow that one worker at a time holds. Keeps what its worker has said; no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from resources.launcher.port import WorkerState
from resources.messages import EventMessage, Status
from streamforge_assets.workflow.healing import Health

LAST_WORD = 1.0
"""Seconds in which the last event of a worker that has ended may still arrive. Without one it counts as gone."""


@dataclass
class Seat:
    """One worker's place, and the health of who holds it. Times are seconds of one monotonic clock.

    Attributes:
        module: what is started.
        target: how `queue-control` addresses it.
        attempt: starts so far, the fence between a worker and the one it replaced.
        tries: starts in a row that brought no day.
        telemetry_id: of the present worker; events of any other are ignored.
        records: records that all its workers have reported.
        vacant_until: when the successor of a worker that was replaced is to be started; None: somebody works.
    """

    module: str
    target: str
    attempt: int = 0
    tries: int = 0
    telemetry_id: str = ""
    finished: bool = False
    status: Status = "pending"
    failure: EventMessage | None = None
    records: int = 0
    vacant_until: float | None = None
    _heard: float = 0.0
    _ended: float | None = None
    _end: str = ""
    _records_before: int = 0

    @property
    def works(self) -> bool:
        """Whether somebody is at work who has not finished."""
        return not self.finished and self.vacant_until is None

    def vacate(self, *, until: float) -> None:
        """The worker is gone; its successor comes at `until`. Whatever else it says is ignored."""
        self.vacant_until = until

    def take(self, telemetry_id: str, *, now: float) -> None:
        """Give the seat to a new worker, which is about to be started."""
        self.attempt += 1
        self.tries += 1
        self.vacant_until = None
        self.telemetry_id = telemetry_id
        self.status = "pending"
        self.failure = None
        self._heard = now
        self._ended = None
        self._end = ""
        self._records_before = self.records

    def hear(self, event: EventMessage, *, now: float) -> bool:
        """Take in an event; false when it is not of the present worker."""
        if event.producer != self.telemetry_id:
            return False
        self._heard = now
        self.status = event.status
        self.records = self._records_before + event.records_written
        extra = event.model_extra or {}
        if event.partition and not extra.get("stored"):
            self.tries = 1
        if event.status == "error":
            self.failure = event
        elif event.finished:
            self.finished = event.status == "finished"
            self.failure = None if self.finished else event
        return True

    def excuse(self, *, now: float) -> None:
        """Count the worker's silence from now on: before, nobody could have heard it."""
        self._heard = now

    def see(self, state: WorkerState | None, *, now: float) -> None:
        """Take in what the launcher says of the worker. None: the launcher does not know it."""
        if state is not None and state.state != "running" and self._ended is None:
            self._ended = now
            self._end = state.detail or f"the worker {state.state}"

    def health(self, *, now: float) -> Health:
        """What the healing policy needs to know."""
        failure = self.failure
        return Health(
            status=self.status,
            quiet=now - self._heard,
            gone=self._ended is not None and now - self._ended >= LAST_WORD,
            failed=failure is not None,
            retriable=failure is None or bool((failure.model_extra or {}).get("retriable", True)),
            tries=self.tries,
        )

    def cause(self, *, now: float, silence_limit: float) -> str:
        """Why the worker has to be replaced, in one sentence."""
        if self.failure is not None:
            return self.failure.message
        if self._ended is not None and now - self._ended >= LAST_WORD:
            return f"it ended without a last event: {self._end}"
        return f"no event for {silence_limit:g} s"
