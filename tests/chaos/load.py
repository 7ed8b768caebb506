"""One load under fire: the command, its workers, who was struck when, and how long healing took."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from resources.settings import Settings
from streamforge_assets.workflow.states import Workflow
from tests.chaos.stage import START, Stage, workflows

DEADLINE = 3600.0
LOOK = 0.05


class Overdue(AssertionError):
    """Something did not happen in time."""


@dataclass(frozen=True)
class Worker:
    """A worker process, and the seat that it holds."""

    process: psutil.Process
    environment: dict[str, str]

    @property
    def name(self) -> str:
        return self.environment["TELEMETRY_ID"]

    @property
    def seat(self) -> tuple[str, str]:
        return self.environment["QUEUE_ID"], self.environment["TARGET"]


@dataclass
class Load:
    """A backfill of trades in a process of its own: of all days of the stage, and all its symbols or some."""

    stage: Stage
    settings: Settings
    chance: random.Random
    symbols: list[str] = field(default_factory=list)
    strikes: list[tuple[float, Worker]] = field(default_factory=list)
    memory: int = 0
    began: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.symbols = self.symbols or self.stage.symbols
        self.began = time.monotonic()
        words = ["backfill", "trades", "--symbols", ",".join(self.symbols)]
        words += ["--from", str(START), "--to", str(self.stage.size.end)]
        self.said = self.settings.home.with_suffix(".log").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamforge_assets.cli", *words],
            env=os.environ | self.settings.environment(),
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            text=True,
        )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def workers(self) -> list[Worker]:
        """The workers that live now, whatever they are doing."""
        found = []
        try:
            children = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []
        for child in children:
            try:
                environment = child.environ()
                if "TELEMETRY_ID" in environment and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(Worker(child, environment))
                    self.memory = max(self.memory, child.memory_info().rss)
            except psutil.Error:
                continue
        return found

    def wait_for(self, happens: Callable[[], object], what: str, seconds: float = 90.0) -> None:
        """Wait until `happens` gives something true. Raises Overdue, also when the load ends before."""
        deadline = time.monotonic() + seconds
        while not happens():
            if time.monotonic() > deadline or not self.running:
                self.process.kill()
                raise Overdue(f"{what}: not within {seconds:.0f} s of a load that said: {self.words()[-2000:]}")
            self.workers()
            time.sleep(LOOK)

    def pick(self, wanted: Callable[[Worker], bool] = lambda _: True) -> Worker:
        """A worker that was not struck yet."""
        struck = {worker.name for _, worker in self.strikes}
        fresh: list[Worker] = []

        def look() -> list[Worker]:
            fresh[:] = [one for one in self.workers() if one.name not in struck and wanted(one)]
            return fresh

        self.wait_for(look, "a worker to strike")
        return self.chance.choice(fresh)

    def strike(self, worker: Worker, number: signal.Signals) -> bool:
        """Send a signal; false when the worker was gone already."""
        try:
            worker.process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        self.strikes.append((time.time(), worker))
        return True

    def stored(self) -> int:
        """Days that are in the lake."""
        return len(list((self.settings.home / "lake").glob("*/*/*.parquet")))

    def has_stored(self, wanted: int) -> bool:
        """Whether so many days are in the lake, or the load is too far on for more."""
        return self.stored() >= min(wanted, len(self.symbols) * self.stage.size.days - 2)

    def finish(self) -> None:
        """Wait for the end. Raises Overdue, and AssertionError when the command failed."""
        deadline = time.monotonic() + DEADLINE
        while self.running:
            self.workers()
            if time.monotonic() > deadline:
                self.process.kill()
                raise Overdue(f"the load did not end within {DEADLINE:.0f} s")
            time.sleep(LOOK)
        self.seconds = time.monotonic() - self.began
        assert self.process.returncode == 0, self.words()[-3000:]

    def words(self) -> str:
        """What the command has said so far."""
        return Path(self.said.name).read_text(errors="replace")

    def worker_log(self, worker: Worker) -> str:
        """What a worker has logged so far."""
        path = self.settings.home / "logs" / f"{worker.name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def healing(self) -> list[float]:
        """For each healing, the seconds from the last strike at its seat to the first word of the successor."""
        return healing_times(self.strikes, workflows(self.settings))


def healing_times(strikes: list[tuple[float, Worker]], known: list[Workflow]) -> list[float]:
    """Seconds from a strike to the first word of a successor; a strike at a successor begins the time anew."""
    seats: dict[str, tuple[str, str]] = {worker.name: worker.seat for _, worker in strikes}
    times = []
    for workflow in known:
        for incident in workflow.history:
            seat = seats.get(incident.worker)
            if seat is None or incident.healed_in is None:
                continue
            healed = incident.at.timestamp() + incident.healed_in
            before = [at for at, worker in strikes if worker.seat == seat and at <= healed]
            times.append(healed - max(before))
    return times
