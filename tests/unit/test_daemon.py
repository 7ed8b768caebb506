"""The daemon looks after backfills as often as we say."""

import logging
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._daemon import controller
from dagster._daemon.backfill import execute_backfill_iteration_loop

from streamforge_assets.daemon import LOOKS_EVERY, look_often


class Waits(list[float]):
    """Stands for the event that ends the daemon: notes how long the daemon would wait for it."""

    def wait(self, seconds: float) -> None:
        self.append(seconds)


def test_backfills_are_looked_after_every_few_seconds(monkeypatch):
    """A pipeline of four stages would otherwise wait some three minutes for Dagster's clock alone."""
    monkeypatch.setattr(controller, "DEFAULT_DAEMON_INTERVAL_SECONDS", 30)
    look_often()
    waits = Waits()
    with dg.DagsterInstance.ephemeral() as instance:
        looks = execute_backfill_iteration_loop(
            SimpleNamespace(instance=instance), logging.getLogger("test"), waits
        )
        for _ in looks:
            if waits:
                break
    assert waits == [pytest.approx(LOOKS_EVERY, abs=1)]
