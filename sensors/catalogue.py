"""All sensors, for whoever composes the definitions."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from resources.settings import Settings
from sensors.queue_events import queue_events
from sensors.run_failures import run_cancellations, run_failures
from sensors.self_healing import self_healing


def sensors(settings: Settings, market: Sequence[dg.AssetsDefinition]) -> list[dg.SensorDefinition]:
    """The sensors of the platform. `market` are the assets whose days may be asked for.

    All of them run unless somebody switches them off: each keeps the platform true or alive after something went
    wrong, and a safety net that has to be switched on by hand is missing when it is needed. None starts work of
    its own accord, except `self_healing`, which only goes on with what somebody asked for, and whose policy ends.
    """
    return [
        queue_events(settings),
        self_healing(settings, market),
        run_failures(settings),
        run_cancellations(settings),
    ]
