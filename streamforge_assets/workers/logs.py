"""A worker's log: one JSON object a line on stderr, each with the workflow's and the worker's id."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from pythonjsonlogger.json import JsonFormatter

from resources.errors import Rejected


def write_json_logs(environment: Mapping[str, str]) -> None:
    """Have every logger of this process write JSON lines, from the level LOG_LEVEL on (INFO where it is unset).

    Raises:
        Rejected: LOG_LEVEL names no level.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={name.lower(): environment.get(name, "") for name in ("QUEUE_ID", "TELEMETRY_ID")},
            timestamp=True,
            json_ensure_ascii=False,
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(True)
    level = environment.get("LOG_LEVEL") or "INFO"
    if level not in logging.getLevelNamesMapping():
        raise Rejected(f"the worker's variable LOG_LEVEL is {level!r}; it must be a level such as INFO or DEBUG")
    logging.getLogger().setLevel(level)
