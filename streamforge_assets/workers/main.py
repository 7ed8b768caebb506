"""How a worker runs as a process of its own: `python -m streamforge_assets.workers.<name>`.

Its environment says everything: the job (QUEUE_ID, TARGET, TELEMETRY_ID, TYPE, SYMBOL, TIME_RANGE, KAFKA_TOPIC,
COLLECTION_NAME, ATTEMPT, FENCE, REFRESH), the settings (STREAMFORGE_*), LOG_LEVEL, and METRICS_PORT with
METRICS_HOST, where its page for Prometheus is served (port 0: a free one; without METRICS_PORT there is none).

Exit codes: 0 the work is done, or was stopped; 1 it failed, and the same may succeed later; 2 it can never succeed
as it is, so nobody should start it again. The last line of the log is the cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, NoReturn

import stamina.instrumentation
from stamina.instrumentation import LoggingOnRetryHook, RetryDetails

from resources import metrics
from resources.bus import open_bus
from resources.errors import Rejected, StreamForgeError
from resources.exchange import open_exchange
from resources.launcher import lifeline
from resources.settings import Settings, load_settings
from resources.store import open_store
from streamforge_assets.workers.job import Job, read_job
from streamforge_assets.workers.logs import write_json_logs
from streamforge_assets.workers.runtime import Ports, Work, log, run_worker

DONE, FAILED, HOPELESS = 0, 1, 2

STOP_PATIENCE: Final = 3.0
"""Seconds after SIGTERM in which the batch at hand may be finished; then it is given up, and so reported."""


def main(work: Work) -> NoReturn:
    """Run `work` as the environment says, and exit."""
    lifeline.hold(os.environ)

    async def run() -> None:
        await _run(read_job(os.environ), load_settings(), work)

    try:
        write_json_logs(os.environ)
    except Rejected as error:
        log.error("%s", error)
        sys.exit(HOPELESS)
    sys.exit(exit_code(run))


def exit_code(run: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a worker's coroutine to its end and say with which code its process ends; its cause is logged last."""
    code = DONE
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run())
    except StreamForgeError as error:
        log.error("%s", error)
        code = HOPELESS if isinstance(error, Rejected) else FAILED
    except OSError as error:
        log.error("%s cannot be used: %s", error.filename or "a file or address", error.strerror or error)
        code = FAILED
    except Exception as error:  # noqa: BLE001  # the last line of a worker that dies must be its cause
        log.critical("%s: %s", type(error).__name__, error, exc_info=error)
        code = FAILED
    logging.shutdown()
    return code


@contextlib.asynccontextmanager
async def stopped_by_signals() -> AsyncIterator[asyncio.Event]:
    """Give an event that SIGTERM or SIGINT sets, and swallow the cancellation with which they insist.

    They ask the work to stop; STOP_PATIENCE seconds later, or at another signal, its task is cancelled.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def ask(number: signal.Signals) -> None:
        if task is None:
            return
        if stop.is_set():
            task.cancel()
            return
        log.info("asked to stop by %s", number.name)
        stop.set()
        loop.call_later(STOP_PATIENCE, task.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    try:
        yield stop
    except asyncio.CancelledError:
        if not stop.is_set():
            raise


def count_retries(meter: metrics.Meter) -> None:
    """Have every repeat of an HTTP request counted and logged."""

    def count(details: RetryDetails) -> None:  # noqa: ARG001  # the hook's signature
        meter.add(metrics.RETRIES)

    stamina.instrumentation.set_on_retry_hooks([count, LoggingOnRetryHook])


async def _run(job: Job, settings: Settings, work: Work) -> None:
    meter = metrics.Meter()
    count_retries(meter)
    async with stopped_by_signals() as stop:
        with _page(meter, job, os.environ):
            async with (
                open_bus(settings) as bus,
                open_store(settings) as store,
                open_exchange(settings) as exchange,
            ):
                await run_worker(job, Ports(settings, bus, store, exchange, meter), work, stop=stop)


@contextlib.contextmanager
def _page(meter: metrics.Meter, job: Job, environment: Mapping[str, str]) -> Iterator[None]:
    wanted = environment.get("METRICS_PORT", "")
    if not wanted:
        yield
        return
    if not wanted.isdecimal() or int(wanted) > 65535:
        raise Rejected(f"the worker's variable METRICS_PORT is {wanted!r}; it must be a port such as 9000, or 0")
    host = environment.get("METRICS_HOST") or "127.0.0.1"
    labels = {"target": job.target, "symbol": job.symbol, "type": job.dataset.api_type}
    with metrics.page(meter, labels, port=int(wanted), host=host) as port:
        log.info("metrics are at http://%s:%d/metrics", host, port, extra={"metrics_port": port})
        yield


def _loop_factory() -> Callable[[], Any] | None:
    """Uvloop's where it is installed; asyncio's own otherwise."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
