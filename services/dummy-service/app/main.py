"""Run the dummy service from its folder: `python3.11 -m app.main --debug --simulate-loading`.

It is a worker of StreamForge in everything but its work: it answers `ping`, obeys `stop` and SIGTERM, reports on
`queue-events`, and shows its metrics. Exit codes: 0 done or stopped, 1 failed, 2 it cannot run as it is asked to.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys

from loguru import logger

from resources.bus import open_bus
from resources.errors import StreamForgeError
from resources.exchange import open_exchange
from resources.launcher import lifeline
from resources.metrics import Meter
from resources.settings import load_settings
from resources.store import open_store
from streamforge_assets.workers.main import HOPELESS, exit_code, stopped_by_signals
from streamforge_assets.workers.runtime import Ports, run_worker

from app.options import Options, parse
from app.pretence import pretend
from app.web import Health, pages, served

FOR_EVER = float("inf")


class _ToLoguru(logging.Handler):
    """Hands on what the workers' runtime logs."""

    def emit(self, record: logging.LogRecord) -> None:
        frame, depth = inspect.currentframe(), 0
        while frame and (depth == 0 or frame.f_code.co_filename == logging.__file__):
            frame, depth = frame.f_back, depth + 1
        logger.opt(depth=depth, exception=record.exc_info).log(record.levelname, record.getMessage())


def set_up_logs(options: Options) -> None:
    """Log to stderr: readable with --debug, else one JSON object a line; each with the ids."""
    logger.remove()
    logger.configure(extra={"queue_id": options.job.queue_id, "telemetry_id": options.job.telemetry_id})
    logger.add(sys.stderr, level="DEBUG" if options.debug else "INFO", serialize=not options.debug)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.INFO, force=True)


async def serve(options: Options) -> None:
    """Be the worker that `options` describe, from the first command to the last event."""
    settings = load_settings()
    meter = Meter()
    async with stopped_by_signals() as stop:
        health = Health(stop)
        app = pages(options.job, meter, health)
        async with served(app, options.host, options.port) as port, open_bus(settings) as bus:
            health.connected = True
            logger.info("pages are at http://{}:{}/metrics, /healthz, /readyz", options.host, port)
            logger.info("try: python3.11 debug_producer.py --queue-id {} --command ping", options.job.queue_id)
            # Neither store nor exchange is opened: nothing that it pretends to load is real.
            ports = Ports(settings, bus, open_store(settings), open_exchange(settings), meter)
            await run_worker(
                options.job,
                ports,
                pretend(options.behaviour),
                stop=stop,
                start_limit=0.0 if options.simulate_loading else FOR_EVER,
                commands_from="earliest" if options.announced else "latest",
            )


def main() -> int:
    """Run the service; returns its exit code."""
    lifeline.hold(os.environ)
    try:
        options = parse(sys.argv[1:])
    except StreamForgeError as error:
        sys.stderr.write(f"dummy-service: {error}\n")
        return HOPELESS
    set_up_logs(options)
    return exit_code(lambda: serve(options))


if __name__ == "__main__":
    sys.exit(main())
