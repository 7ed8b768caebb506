"""The launcher: starts workers, proves them gone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

State = Literal["running", "succeeded", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker to start: `python -m streamforge_assets.workers.<module>` with this environment.

    `telemetry_id` names this start of it, and no other: `<name>__<random>`.
    """

    module: str
    telemetry_id: str
    environment: Mapping[str, str] = field(default_factory=dict)


Entrypoint = Callable[[WorkerSpec], Awaitable[None]]
"""Runs one worker in this process until it has finished; raises when it fails."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """How a worker stands. `detail` is the cause when it failed."""

    state: State
    detail: str = ""


class Launcher(Protocol):
    """Starts workers and proves them gone.

    Raises Rejected for a telemetry_id that was started before; Unavailable when the worker cannot be started
    now. Leaving the launcher stops every worker that it started.
    """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None:
        """Stop all workers and close. Closing twice is harmless."""

    @abstractmethod
    async def start(self, spec: WorkerSpec) -> None:
        """Start a worker. Returns once it is on its way, not once it works."""

    @abstractmethod
    async def stop(self, telemetry_id: str, *, grace: float) -> None:
        """Ask the worker to end, insist after `grace` seconds, and return only when it is gone.

        Stopping a worker that has ended, or was never started, is harmless. Raises Unavailable if it
        cannot be proven gone.
        """

    @abstractmethod
    async def states(self) -> Mapping[str, WorkerState]:
        """Return the state of every worker that this launcher started, by telemetry_id."""
