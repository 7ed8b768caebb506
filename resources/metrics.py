"""What workers measure: one table of metrics, plain counters that cost nothing, and their page for Prometheus.

docs/metrics.md is made from the table. prometheus_client is loaded only where a page is served.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resources.errors import Rejected, Unavailable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


log = logging.getLogger("streamforge.metrics")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, named by Prometheus' conventions: base units, counters end in `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: tuple[str, ...] = ()


RECORDS = Metric("streamforge_worker_records_total", "counter", "records published by a loader, or stored")
BYTES = Metric("streamforge_worker_bytes_total", "counter", "bytes of message values published, or received")
BATCHES = Metric("streamforge_worker_batches_total", "counter", "batches published by a loader, or stored")
ERRORS = Metric("streamforge_worker_errors_total", "counter", "errors that ended the work, or failed a day")
RETRIES = Metric("streamforge_worker_retries_total", "counter", "repeats after a fault that may pass")
DEAD_LETTERS = Metric(
    "streamforge_worker_dead_letters_total", "counter", "messages set aside into the dead-letter topic"
)
LAG = Metric("streamforge_worker_lag_messages", "gauge", "messages of the data topics that are not dealt with yet")
STAGE_SECONDS = Metric(
    "streamforge_worker_stage_seconds_total", "counter", "seconds spent in each stage of the work", ("stage",)
)
LAST_EVENT = Metric(
    "streamforge_worker_last_event_timestamp_seconds",
    "gauge",
    "when the worker last sent an event; its age is `time()` minus this",
)

HEALS = Metric(
    "streamforge_heals_total",
    "counter",
    "workers, and coordinators, that were replaced and whose successor works",
    ("target",),
)
HEAL_SECONDS = Metric(
    "streamforge_heal_seconds_total",
    "counter",
    "seconds from noticing each loss to the successor's first sign; divided by the heals: the time to heal",
    ("target",),
)
UNHEALED = Metric(
    "streamforge_unhealed_total",
    "counter",
    "losses after which the workflow failed and nobody has gone on",
    ("target",),
)

HEALING_METRICS = (HEALS, HEAL_SECONDS, UNHEALED)
"""Of the whole platform, counted from the workflows' documents."""

HEALING_PAGE = Path("metrics/healing.prom")
"""Where they are written, below the home folder."""

METRICS = (RECORDS, BYTES, BATCHES, ERRORS, RETRIES, DEAD_LETTERS, LAG, STAGE_SECONDS, LAST_EVENT)

REQUESTS = Metric(
    "streamforge_queue_manager_requests_total", "counter", "requests answered", ("method", "route", "status")
)
STREAMS = Metric("streamforge_queue_manager_streams", "gauge", "clients that follow events now")
LIVE = Metric("streamforge_queue_manager_workflows", "gauge", "workflows that are not over")
BACKFILLS = Metric("streamforge_queue_manager_backfills_total", "counter", "backfills launched", ("stage",))
FAULTS = Metric(
    "streamforge_queue_manager_faults_total",
    "counter",
    "steps of a workflow that failed and are tried again, by what was at fault",
    ("cause",),
)

QUEUE_MANAGER_METRICS = (REQUESTS, STREAMS, LIVE, BACKFILLS, FAULTS)
"""What `streamforge queue-manager` measures."""

WORKER_LABELS = ("target", "symbol", "type")
"""Every metric of a worker carries these besides its own."""


class Meter:
    """The values of a process's metrics, METRICS unless others are given. Counters begin at 0."""

    def __init__(self, metrics: Sequence[Metric] = METRICS) -> None:
        self._values: dict[Metric, dict[tuple[str, ...], float]] = {
            metric: {} if metric.labels else {(): 0.0} for metric in metrics
        }
        self._stages: list[str] = []
        self._counted = time.monotonic()

    def add(self, metric: Metric, amount: float = 1, *labels: str) -> None:
        """Increase a counter."""
        values = self._values[metric]
        values[labels] = values.get(labels, 0.0) + amount
        self._counted = time.monotonic()

    def set(self, metric: Metric, value: float) -> None:
        """Set a gauge."""
        self._values[metric][()] = value

    def value(self, metric: Metric, *labels: str) -> float:
        """The value so far."""
        return self._values[metric].get(labels, 0.0)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time that passes inside as spent in the stage `name`."""
        began = time.perf_counter()
        self._stages.append(name)
        try:
            yield
        finally:
            self._stages.remove(name)
            self.add(STAGE_SECONDS, time.perf_counter() - began, name)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that have begun and not ended."""
        return tuple(self._stages)

    def standstill(self) -> float:
        """Seconds since a counter was last increased, which the end of a stage does too."""
        return time.monotonic() - self._counted

    def snapshot(self) -> dict[Metric, dict[tuple[str, ...], float]]:
        """A copy of all values, for another thread."""
        return {metric: dict(values) for metric, values in self._values.items()}


def registry_of(meter: Meter, labels: Mapping[str, str]) -> CollectorRegistry:
    """What prometheus_client needs to show `meter`, each value with `labels`."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(_Collector(meter, labels))
    return registry


@contextlib.contextmanager
def page(meter: Meter, labels: Mapping[str, str], *, port: int, host: str) -> Iterator[int]:
    """Serve `meter` at http://host:port/metrics, each value with `labels`; gives the port, chosen where it is 0.

    Raises:
        Rejected: the address cannot be used.
    """
    from prometheus_client import start_http_server

    try:
        server, _ = start_http_server(port, addr=host, registry=registry_of(meter, labels))
    except OSError as error:
        raise Rejected(
            f"metrics cannot be served at {host}:{port} ({error.strerror or error}); set METRICS_PORT to a free"
            " port, or to 0 to have one chosen"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def write_page(meter: Meter, path: Path) -> None:
    """Write `meter` to `path`, whole or not at all, for a Prometheus node exporter's textfile collector.

    Raises:
        Unavailable: the file cannot be written.
    """
    from prometheus_client import write_to_textfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(path), registry_of(meter, {}))
    except OSError as error:
        raise Unavailable(f"metrics cannot be written to {path}: {error.strerror or error}") from error


def show_page(registry: CollectorRegistry, path: Path, metrics: Sequence[Metric]) -> None:
    """Have `registry` show what `write_page` has last written to `path`, of `metrics` only.

    Nothing is shown while there is no such file, or one that cannot be read, which is logged.
    """
    registry.register(_Page(path, metrics))


class _Page:
    def __init__(self, path: Path, metrics: Sequence[Metric]) -> None:
        self._path = path
        self._names = {metric.name.removesuffix("_total") for metric in metrics}

    def collect(self) -> Iterator[Any]:
        from prometheus_client.parser import text_string_to_metric_families

        try:
            families = list(text_string_to_metric_families(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("the metrics in %s cannot be read: %s", self._path, error)
            return
        yield from (family for family in families if family.name in self._names)


class _Collector:
    def __init__(self, meter: Meter, labels: Mapping[str, str]) -> None:
        self._meter = meter
        self._labels = dict(labels)

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for metric, values in self._meter.snapshot().items():
            names = [*self._labels, *metric.labels]
            family = families[metric.kind](metric.name, metric.meaning, labels=names)
            for labels, value in values.items():
                family.add_metric([*self._labels.values(), *labels], value)
            yield family
