"""What the dummy service is asked to be: the command line, and the job that it stands for."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from streamforge_assets.workers.job import Job, read_job

TARGET = "dummy-service"
QUEUE_ID = "dummy"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the service behaves once it works. Times are seconds of work; None: never.

    Attributes:
        rate: records a second.
        total: records after which it has finished; 0: it goes on until it is stopped.
        error_rate: share of its batches that fail once and are repeated.
        fail_after: it reports an error and ends with exit code 1.
        hang_after: it stands still: no event, no answer, deaf to SIGTERM.
        stall_after: its work stands still, while it goes on to report and to answer.
        slow_death: seconds that it takes to end once it is asked to.
    """

    rate: float
    total: int
    error_rate: float
    fail_after: float | None
    hang_after: float | None
    stall_after: float | None
    slow_death: float


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, understood. `announced`: a coordinator started it, so older commands are for it too."""

    announced: bool
    debug: bool
    simulate_loading: bool
    host: str
    port: int
    job: Job
    behaviour: Behaviour


def parse(words: Sequence[str]) -> Options:
    """Understand the command line. Exits with code 2 and a sentence for a wrong one.

    Raises:
        Rejected: the job's variables in the environment are wrong.
    """
    given = _parser().parse_args(words)
    environment = {
        "TELEMETRY_ID": f"{given.target}__{secrets.token_hex(3)}",
        "TYPE": "api_trades",
        "SYMBOL": "DUMMY",
        "TIME_RANGE": "2024-08-01:2024-08-02",
        "KAFKA_TOPIC": f"{given.queue_id}-data",
        **{name: value for name, value in os.environ.items() if value},
        "QUEUE_ID": given.queue_id,
        "TARGET": given.target,
    }
    behaviour = Behaviour(
        given.rate,
        given.total,
        given.error_rate,
        given.fail_after,
        given.hang_after,
        given.stall_after,
        given.slow_death,
    )
    job = read_job(environment)
    announced = bool(os.environ.get("TELEMETRY_ID"))
    return Options(announced, given.debug, given.simulate_loading, given.host, given.port, job, behaviour)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3.11 -m app.main", description=__doc__)
    add = parser.add_argument
    add("--debug", action="store_true", help="logs for people, from DEBUG on; else one JSON object a line")
    add("--simulate-loading", action="store_true", help="work at once; else wait for a start command")
    add("--fail-after", type=_seconds, metavar="N", help="fail after N seconds of work")
    add("--hang-after", type=_seconds, metavar="N", help="stand still after N seconds of work")
    add("--stall-after", type=_seconds, metavar="N", help="after N seconds of work report on, but do nothing")
    add("--slow-death", type=_seconds, metavar="N", default=0.0, help="take N seconds to end when asked to")
    add("--rate", type=_seconds, metavar="N", default=1000.0, help="records a second (default 1000)")
    add("--total", type=int, metavar="N", default=0, help="finish after N records; 0: never")
    add("--error-rate", type=_share, metavar="P", default=0.0, help="share of batches that fail once, 0 to 1")
    add("--queue-id", default=os.environ.get("QUEUE_ID") or QUEUE_ID, help="default: QUEUE_ID, else dummy")
    add("--target", default=os.environ.get("TARGET") or TARGET, help="the worker to pretend to be")
    add("--host", default="127.0.0.1", help="address of its web pages")
    add("--port", type=int, default=8000, help="port of its web pages (default 8000)")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1")
    return value
