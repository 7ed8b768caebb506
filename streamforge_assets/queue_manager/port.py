"""What the queue-manager needs of Dagster. RemoteDagster provides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from streamforge_assets.remote_dagster import RemoteProgress, Target


class Dagster(Protocol):
    """A running Dagster that makes assets.

    Every call is over within a minute and raises Unavailable when Dagster does not answer, Rejected when it
    refuses. A launch that raised may have happened nevertheless: `find` tells.
    """

    url: str

    async def check(self, assets: Sequence[tuple[str, ...]] = (), *, timeout: float = ...) -> None:
        """Return if Dagster answers and has `assets`."""

    async def launch_targets(
        self, targets: Sequence[Target], *, title: str, tags: Mapping[str, str], config: Mapping[str, object]
    ) -> str:
        """Launch one backfill of all targets; returns its id."""
        ...

    async def find(self, tags: Mapping[str, str], *, since: datetime) -> str | None:
        """The id of the newest backfill with `tags` that was launched after `since`; None without one."""

    async def progress(self, backfill: str) -> RemoteProgress:
        """How far a backfill is."""
        ...

    async def cause(self, backfill: str) -> str:
        """Why a run of a backfill failed, in a sentence; empty where Dagster does not say."""
        ...

    async def cancel(self, backfill: str) -> None:
        """Ask for a backfill to be stopped. It has ended once its progress says so."""
