"""Dagster's daemon, which looks after backfills every few seconds: `python -m streamforge_assets.daemon run`.

Dagster's own looks every 30 seconds, and no setting changes that. A stage of a pipeline takes two looks, one that
starts its runs and one that sees their end, and one more for runs that need what the first have made. So for most
of the time of a small pipeline nothing would happen: from an empty store to two models took 244 s, and takes 72.

`tests/unit/test_daemon.py` fails when a new Dagster no longer reads the number.
"""

from dagster._daemon import controller
from dagster._daemon.cli import main

LOOKS_EVERY = 5
"""Seconds from one look at the backfills to the next. A look at 12,400 partitions costs 0.09 CPU seconds, at none
nothing."""


def look_often() -> None:
    """Have the daemon of this process look after backfills every LOOKS_EVERY seconds."""
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = LOOKS_EVERY


if __name__ == "__main__":
    look_often()
    main()
