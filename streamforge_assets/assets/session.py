"""What an asset works with: the platform, opened for one step, and called from synchronous code."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from resources.settings import Settings
from streamforge_assets.workflow.collection import Collected
from streamforge_assets.workflow.platform import Platform, open_platform

T = TypeVar("T")


@dataclass
class Session:
    """The resource `session`. What its steps did, and whether one was interrupted, is left here for a caller in
    the same process.
    """

    settings: Settings
    collected: list[Collected] = field(default_factory=list)
    interrupted: bool = False
    _kept: OpenPlatform | None = field(default=None, init=False)

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
    def platform(self) -> Iterator[OpenPlatform]:
        """Open the platform on an event loop of its own thread, which works under a running loop too."""
        if self._kept is not None:
            yield self._kept
            return
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(open_platform(self.settings)) as platform,
        ):
            yield OpenPlatform(self, platform, portal)


@dataclass(frozen=True, slots=True)
class OpenPlatform:
    """The platform and the way to its event loop."""

    session: Session
    platform: Platform
    portal: BlockingPortal

    def run(self, work: Callable[[Platform], Awaitable[T]]) -> T:
        """Run `work` on the platform's loop and wait for it. Interrupting the wait cancels the work."""
        future = self.portal.start_task_soon(work, self.platform)
        try:
            return future.result()
        except BaseException as error:
            future.cancel()
            self.session.interrupted |= not isinstance(error, Exception) or "Interrupt" in type(error).__name__
            raise
