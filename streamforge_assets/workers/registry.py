"""The workers by name, and how each is run in this process."""

from __future__ import annotations

from dataclasses import replace

from resources.errors import Rejected
from resources.launcher.port import Entrypoint, WorkerSpec
from resources.metrics import Meter
from streamforge_assets.workers.arango_connector import connect
from streamforge_assets.workers.job import read_job
from streamforge_assets.workers.loader_api_candles import load_candles
from streamforge_assets.workers.loader_api_trades import load_trades
from streamforge_assets.workers.runtime import Ports, Work, run_worker

WORKERS: dict[str, Work] = {
    "arango_connector": connect,
    "loader_api_candles": load_candles,
    "loader_api_trades": load_trades,
}

TARGETS = {
    "arango_connector": "arango-connector",
    "loader_api_candles": "loader-producer",
    "loader_api_trades": "loader-producer",
}
"""The name under which `queue-control` addresses each worker: loaders are kinds of loader-producer."""


def in_process(ports: Ports) -> Entrypoint:
    """An entrypoint that runs a worker on this process's ports."""

    async def run(spec: WorkerSpec) -> None:
        if spec.module not in WORKERS:
            raise Rejected(f"there is no worker called {spec.module!r}; there are {', '.join(WORKERS)}")
        # A worker that stands still is found by its own meter.
        await run_worker(read_job(spec.environment), replace(ports, meter=Meter()), WORKERS[spec.module])

    return run
