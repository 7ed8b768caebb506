"""Dagster in this process: its instance under the home folder, and backfills as in-process runs."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from resources.errors import Unavailable
from resources.settings import Settings
from streamforge_assets.lost_runs import PROCESS_TAG, end_lost_runs
from streamforge_assets.request import Request
from streamforge_assets.run_cause import step_cause

if TYPE_CHECKING:
    import dagster as dg

    from streamforge_assets.assets.session import Session

DAYS_A_RUN = 92
OPENING_LIMIT = 60.0
LEAST_ROOM = 1024**2

INSTANCE_CONFIG = """\
# The Dagster instance of one machine: SQLite below this folder. Written once; change it as you like.
telemetry:
  enabled: false
event_log_storage:
  module: streamforge_assets.event_log
  class: EventLogStorage
  config:
    base_dir: {home}/history/runs/
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 2
# A sensor that waits for a broker must not hold up the others.
sensors:
  use_threads: true
  num_workers: 4
retention:
  sensor:
    purge_after_days: 7
  schedule:
    purge_after_days: 90
"""

WORKSPACE = """\
load_from:
  - python_module:
      module_name: streamforge_assets.definitions
      location_name: streamforge
"""


def dagster_home(settings: Settings) -> Path:
    """The folder of the Dagster instance: `DAGSTER_HOME`, or `dagster` below our home. Made if absent."""
    given = os.environ.get("DAGSTER_HOME")
    home = Path(given) if given else (settings.home / "dagster").absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        for name, text in (("dagster.yaml", INSTANCE_CONFIG), ("workspace.yaml", WORKSPACE)):
            if not (home / name).exists():
                (home / name).write_text(text.replace("{home}", str(home)))
    except OSError as error:
        raise Unavailable(
            f"the folder {home} cannot be written ({error.strerror}); set STREAMFORGE_HOME to one that can"
        ) from error
    return home


@contextlib.contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Open the Dagster instance of `dagster_home`.

    Raises:
        Unavailable: when its files cannot be written, at any time until it is closed.
    """
    import dagster as dg
    from sqlalchemy.exc import SQLAlchemyError

    home = dagster_home(settings)
    try:
        with FileLock(home / ".opening.lock", timeout=OPENING_LIMIT):
            # Two processes that make the tables of a new instance at once trip over each other.
            instance = dg.DagsterInstance.from_config(str(home))
        with instance:
            yield instance
    except (SQLAlchemyError, Timeout) as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        # SQLite calls a full disk an I/O error where it cannot even make its shared memory.
        full = "full" in cause or shutil.disk_usage(home).free < LEAST_ROOM
        hint = "; there is no space left on that disk, make some and repeat" if full else ""
        raise Unavailable(f"Dagster's instance in {home} cannot be used: {cause}{hint}") from error


def add_symbols(instance: dg.DagsterInstance, symbols: Sequence[str]) -> None:
    """Make `symbols` partitions, if they are not."""
    from streamforge_assets.partitions import SYMBOLS

    instance.add_dynamic_partitions(SYMBOLS.name or "", list(symbols))


def list_symbols(instance: dg.DagsterInstance) -> list[str]:
    """The symbols that are partitions, sorted."""
    from streamforge_assets.partitions import SYMBOLS

    return sorted(instance.get_dynamic_partitions(SYMBOLS.name or ""))


def remove_symbol(instance: dg.DagsterInstance, symbol: str) -> None:
    """Take a symbol off the partitions. Its stored data stay."""
    from streamforge_assets.partitions import SYMBOLS

    instance.delete_dynamic_partition(SYMBOLS.name or "", symbol)


def run_backfill(
    instance: dg.DagsterInstance, session: Session, request: Request, *, refresh: bool, accepted_by: str
) -> None:
    """Materialise the request, one in-process run for each symbol and stretch of days.

    What each partition became is left in `session.collected`.
    """
    from streamforge_assets.assets.market_data import market_asset
    from streamforge_assets.partitions import market_key

    end_lost_runs(instance)
    add_symbols(instance, request.symbols)
    assets = [market_asset(session.settings, dataset) for dataset in request.datasets]
    config = {"config": {"refresh": refresh, "accept_gaps_by": accepted_by}}
    for symbol in request.symbols:
        for at in range(0, len(request.days), DAYS_A_RUN):
            stretch = request.days[at : at + DAYS_A_RUN]
            _run(
                instance,
                session,
                assets,
                keys=(market_key(stretch[0], symbol), market_key(stretch[-1], symbol)),
                config={asset.node_def.name: config for asset in assets},
            )


def run_days(instance: dg.DagsterInstance, session: Session, name: str, first: date, last: date) -> str:
    """Materialise the asset called `name` for the days [first, last] in one run.

    Returns:
        Why days could not be made; empty when all were.
    """
    from streamforge_assets.assets.catalogue import market_assets, modelling_assets

    end_lost_runs(instance)
    assets = [*market_assets(session.settings), *modelling_assets(session.settings)]
    keys = (first.isoformat(), last.isoformat())
    chosen = [asset for asset in assets if asset.key.path[-1] == name]
    result = _run(instance, session, assets, keys=keys, config={}, selection=chosen)
    for event in result.all_events:
        if event.is_step_failure:
            return step_cause(event.step_failure_data) or "the step failed without a cause"
    return ""


def _run(
    instance: dg.DagsterInstance,
    session: Session,
    assets: Sequence[dg.AssetsDefinition],
    *,
    keys: tuple[str, str],
    config: Mapping[str, object],
    selection: Sequence[dg.AssetsDefinition] | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialise the partitions from the first to the second key in one in-process run."""
    import dagster as dg

    result = dg.materialize(
        assets,
        instance=instance,
        resources={"session": session},
        run_config={"ops": dict(config), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
        selection=selection,
        tags={
            "dagster/asset_partition_range_start": keys[0],
            "dagster/asset_partition_range_end": keys[1],
            PROCESS_TAG: str(os.getpid()),
        },
    )
    if session.interrupted:
        # Dagster turns Ctrl-C into the end of one run; the user meant all of them.
        raise KeyboardInterrupt
    return result
