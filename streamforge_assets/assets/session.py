"""What an asset works with: the platform, opened for one step, and called from synchronous code."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Generic, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from resources.artifacts import open_artifacts
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.modelling.storage import PlantedEdges, Storage
from streamforge_assets.workflow.collection import Collected
from streamforge_assets.workflow.platform import Platform, open_platform

T = TypeVar("T")
P = TypeVar("P")


@dataclass
class Session:
    """The resource `session`. What its steps did, and whether one was interrupted, is left here for a caller in
    the same process.

    Args:
        settings: of the platform.
        planted: tells the planted network of a simulated market, to show it beside what was found; None without.
        on_training: hears how far the training of a day's model has come, 0 to 1.
    """

    settings: Settings
    collected: list[Collected] = field(default_factory=list)
    interrupted: bool = False
    planted: PlantedEdges | None = None
    on_training: Callable[[date, float], None] | None = None
    _kept: OpenPorts[Platform] | None = field(default=None, init=False)

    @contextlib.contextmanager
    def noting_interrupts(self) -> Iterator[None]:
        """Remember an interrupt that ends the block: Dagster takes it for the failure of one step."""
        try:
            yield
        except BaseException as error:
            self.interrupted |= not isinstance(error, Exception) or "Interrupt" in type(error).__name__
            raise

    def training(self, day: date, done: float) -> None:
        """Tell whoever listens how far the training of a day's model has come."""
        if self.on_training is not None:
            self.on_training(day, done)

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Open the platform once for every step inside the block."""
        with self.platform() as opened:
            self._kept = opened
            try:
                yield
            finally:
                self._kept = None

    @contextlib.contextmanager
    def platform(self) -> Iterator[OpenPorts[Platform]]:
        """Open the platform on an event loop of its own thread, which works under a running loop too."""
        if self._kept is not None:
            yield self._kept
            return
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(open_platform(self.settings)) as platform,
        ):
            yield OpenPorts(self, platform, portal)

    @contextlib.contextmanager
    def storage(self) -> Iterator[OpenPorts[Storage]]:
        """Open store and artifacts only, for work that asks nobody outside."""
        if self._kept is not None:
            kept = self._kept.ports
            yield OpenPorts(self, Storage(kept.settings, kept.store, kept.artifacts), self._kept.portal)
            return
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(_open_storage(self.settings)) as storage,
        ):
            yield OpenPorts(self, storage, portal)


@contextlib.asynccontextmanager
async def _open_storage(settings: Settings) -> AsyncIterator[Storage]:
    async with open_store(settings) as store, open_artifacts(settings) as artifacts:
        yield Storage(settings, store, artifacts)


@dataclass(frozen=True, slots=True)
class OpenPorts(Generic[P]):
    """Open ports and the way to their event loop."""

    session: Session
    ports: P
    portal: BlockingPortal

    def run(self, work: Callable[[P], Awaitable[T]]) -> T:
        """Run `work` on the ports' loop and wait for it. Interrupting the wait cancels the work."""
        future = self.portal.start_task_soon(work, self.ports)
        with self.session.noting_interrupts():
            try:
                return future.result()
            except BaseException:
                future.cancel()
                raise
