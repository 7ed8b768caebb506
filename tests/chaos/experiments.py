"""The experiments. Each does its harm to a load of trades, and then compares the store with the truth."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from resources.launcher.lifeline import STARTED_BY
from tests.chaos.load import Load, Worker
from tests.chaos.stage import START, Difference, SlowNetwork, Stage, data_topics, workflows

HEALED_IN = 15.0
MEMORY = 400
"""MB that a worker may take."""

ROUND_TRIPS_A_WORKFLOW, ROUND_TRIPS_A_DAY, TRADES_A_ROUND_TRIP = 110, 20, 10_000
"""Round trips by which a slow network may lengthen a load, however long each takes. A page of trades takes one."""


@dataclass
class Finding:
    """One line of the report."""

    experiment: str
    done: str
    difference: Difference
    seconds: float
    memory: int
    healing: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether everything is as it must be."""
        wrong = (self.difference.lost, self.difference.twice, self.difference.wrong)
        return wrong == (0, 0, 0) and not self.complaints

    @property
    def verdict(self) -> str:
        return "holds" if self.holds else "; ".join(self.complaints) or "the store is not the truth"


def conclude(load: Load, experiment: str, done: str, *complaints: str) -> Finding:
    """Wait for the end of the load, compare, and look for what was left."""
    load.finish()
    finding = Finding(
        experiment,
        done,
        load.stage.difference(load.settings, load.symbols),
        load.seconds,
        load.memory // 2**20,
        load.healing(),
        list(complaints),
    )
    if (slowest := max(finding.healing, default=0.0)) > HEALED_IN:
        finding.complaints.append(f"healing took {slowest:.1f} s")
    if finding.memory > MEMORY:
        finding.complaints.append(f"a worker took {finding.memory} MB")
    known = workflows(load.settings)
    if unended := [one.queue_id for one in known if one.state not in {"finished", "cancelled"}]:
        finding.complaints.append(f"{', '.join(unended)} did not end")
    if left := {f"{one.queue_id}-data" for one in known} & data_topics(load.settings):
        finding.complaints.append(f"{len(left)} topics of ended workflows are left")
    return finding


def pod_delete(stage: Stage) -> list[Finding]:
    """kill -9 of loaders and connectors, at random moments of their lives."""
    chance = random.Random(1)
    load = Load(stage, stage.settings(), chance)
    stored = 0
    while len(load.strikes) < stage.size.kills:
        # Some soon after the one before, most some days later, so that the load comes on all the same.
        stored = max(stored, load.stored()) + chance.choice([0, 1])
        load.wait_for(partial(load.has_stored, stored), "days in the store")
        time.sleep(chance.uniform(0.0, stage.size.pause))
        load.strike(load.pick(partial(_is_other, {worker.seat[1] for _, worker in load.strikes})), signal.SIGKILL)
    return [conclude(load, "pod-delete", f"kill -9 of {len(load.strikes)} workers")]


def _is_other(struck: set[str], worker: Worker) -> bool:
    """Whether striking this one leads to strikes at both kinds of workers."""
    return len(struck) != 1 or worker.seat[1] not in struck


def hang(stage: Stage) -> list[Finding]:
    """A worker stops, and then its double. The double, of which nobody knows, goes on once both are replaced."""
    return [_hang(stage, target) for target in ("loader-producer", "arango-connector")]


def _hang(stage: Stage, target: str) -> Finding:
    settings = stage.settings(silence_limit=8.0, start_limit=20.0)
    stage.hold_back(START + timedelta(days=2))
    load = Load(stage, settings, random.Random(2))
    load.wait_for(lambda: load.stored() >= 1, "a first day")
    worker = load.pick(lambda one: one.seat[1] == target)
    load.wait_for(lambda: says(load, worker, "works on", 1), "the worker's start")
    worker.process.suspend()  # before its double begins: it would give way to it, and so never hang
    zombie = double(load, worker)

    def begun() -> bool:
        # One that comes up after the worker's silence was noticed is told to end before it works.
        return says(load, worker, "works on", 2) or zombie.poll() is not None

    try:
        load.wait_for(begun, "the double's start")
        load.strike(worker, signal.SIGSTOP)
        zombie.send_signal(signal.SIGSTOP)
        stage.hold_back(None)
        load.wait_for(lambda: healed(load, worker), "the healing")
        zombie.send_signal(signal.SIGCONT)
        finding = conclude(load, f"hang: {target}", "SIGSTOP; healed; SIGCONT of a double of it")
        try:
            finding.done += f", which ended with code {zombie.wait(timeout=60)}"
        except subprocess.TimeoutExpired:
            finding.complaints.append("the zombie has not ended")
    finally:
        stage.hold_back(None)
        zombie.kill()
        zombie.wait()
    finding.difference = stage.difference(settings, load.symbols)
    if worker.environment["KAFKA_TOPIC"] in data_topics(settings):
        finding.complaints.append("the zombie made the topic anew")
    return finding


def double(load: Load, worker: Worker) -> subprocess.Popen[bytes]:
    """A second process of the same worker, as there is when a machine was believed dead. Shares its log."""
    with (load.settings.home / "logs" / f"{worker.name}.log").open("ab") as log:
        return subprocess.Popen(
            worker.process.cmdline(),
            env=worker.environment | {STARTED_BY: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def says(load: Load, worker: Worker, words: str, times: int) -> bool:
    return load.worker_log(worker).count(words) >= times


def healed(load: Load, worker: Worker) -> bool:
    return any(
        incident.worker == worker.name and incident.healed_in is not None
        for workflow in workflows(load.settings)
        for incident in workflow.history
    )


def network_latency(stage: Stage) -> list[Finding]:
    """A quiet network for comparison, slow ones, and one that is slow, narrow, and cuts all connections."""
    quiet = conclude(Load(stage, stage.settings(), random.Random(3)), "network-latency", "nothing added")
    found = [quiet]
    for network in stage.size.slow_networks:
        with stage.busier(network.days, network.busier) as busier:
            found.append(_slow_network(busier, network, quiet))
    chance = random.Random(4)
    cuts = 0
    load = Load(stage, stage.settings(start_limit=180.0), chance)
    try:
        stage.weather.rate = 4e6
        while load.running and cuts < stage.size.kills:
            stage.weather.delay = chance.uniform(0.025, 0.25)
            time.sleep(chance.uniform(2.0, 4.0))
            stage.cut()
            cuts += 1
    finally:
        stage.weather.rate, stage.weather.delay = None, 0.0
    found.append(conclude(load, "network-latency", f"50-500 ms, 4 MB/s a connection, {cuts} times all cut"))
    return found


def _slow_network(stage: Stage, network: SlowNetwork, quiet: Finding) -> Finding:
    stage.weather.delay = network.round_trip / 2
    try:
        load = Load(stage, stage.settings(start_limit=180.0), random.Random(3))
        done = f"{network.round_trip * 1000:.0f} ms more a round trip"
        slow = conclude(load, "network-latency", f"{done}, {network.days} days")
    finally:
        stage.weather.delay = 0.0
    usual = quiet.seconds * slow.difference.rows / max(quiet.difference.rows, 1)
    waited = (slow.seconds - usual) / network.round_trip
    slow.done += f", took {waited:.0f} of them more"
    each = ROUND_TRIPS_A_WORKFLOW + ROUND_TRIPS_A_DAY * network.days
    limit = len(stage.symbols) * each + slow.difference.rows // TRADES_A_ROUND_TRIP
    if waited > limit:
        slow.complaints.append(f"more than {limit} round trips")
    return slow


def kafka_broker_failure(stage: Stage) -> list[Finding]:
    """kill -9 of one of the three under load; it comes back; then another."""
    load = Load(stage, stage.settings(), random.Random(5))
    down = min(stage.size.away, 8.0)
    for number in (1, 2):
        load.wait_for(lambda n=number: load.stored() >= n, "days in the store")
        stage.kafka.kill(number)
        try:
            time.sleep(down)
        finally:
            stage.kafka.restart(number)
    return [
        conclude(load, "kafka-broker-failure", f"kill -9 of broker 1, back after {down:.0f} s; then of broker 2")
    ]


def all_brokers_away(stage: Stage) -> list[Finding]:
    """Nobody answers; then all are back."""
    load = Load(stage, stage.settings(), random.Random(6))
    load.wait_for(lambda: load.stored() >= 1, "a first day")
    for number in (1, 2, 3):
        stage.kafka.kill(number)
    time.sleep(stage.size.away)
    for number in (1, 2, 3):
        stage.kafka.launch(number)
    for number in (1, 2, 3):
        stage.kafka.await_ready(number)
    finding = conclude(load, "all brokers away", f"kill -9 of all three, back after {stage.size.away:.0f} s")
    for workflow in workflows(load.settings):
        finding.complaints += [f"{one.worker} was replaced: {one.cause}" for one in workflow.history]
    return [finding]


def coordinator_killed(stage: Stage) -> list[Finding]:
    """kill -9 of the Dagster run; its workers end with it, and the same command takes over."""
    settings = stage.settings()
    first = Load(stage, settings, random.Random(7))
    first.wait_for(lambda: first.stored() >= 2, "two days")
    workers = first.workers()
    first.process.kill()
    first.process.wait()
    complaints = []
    deadline = time.monotonic() + 10.0
    while any(worker.process.is_running() and worker.process.status() != "zombie" for worker in workers):
        if time.monotonic() > deadline:
            complaints.append("workers outlived their coordinator")
            break
        time.sleep(0.05)
    before, whole = dict(stage.exchange.stats.downloads), first.stored()
    load = Load(stage, settings, random.Random(8))
    finding = conclude(load, "coordinator", f"kill -9 with {whole} days stored; the command repeated", *complaints)
    fetched = sum(
        count > before.get(path, 0)
        for path, count in stage.exchange.stats.downloads.items()
        if path.endswith(".zip")
    )
    wanted = len(stage.symbols) * stage.size.days - whole
    # A day that was stored and not yet in the ledger, of each of the two workflows, is loaded again.
    if fetched > wanted + 2:
        finding.complaints.append(f"{fetched} days were fetched for {wanted}")
    return [finding]


EXPERIMENTS: dict[str, Callable[[Stage], list[Finding]]] = {
    "pod-delete": pod_delete,
    "hang": hang,
    "network-latency": network_latency,
    "kafka-broker-failure": kafka_broker_failure,
    "all-brokers-away": all_brokers_away,
    "coordinator": coordinator_killed,
}


def table(findings: list[Finding]) -> str:
    """The report."""
    rows = [
        "| experiment | what was done | trades | lost | twice | wrong | healed in s (most) | load took s"
        " | worker MB | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in findings:
        healing = f"{max(one.healing):.1f} ({len(one.healing)})" if one.healing else "-"
        what = one.difference
        rows.append(
            f"| {one.experiment} | {one.done} | {what.rows:,} | {what.lost} | {what.twice} | {what.wrong}"
            f" | {healing} | {one.seconds:.0f} | {one.memory} | {one.verdict} |"
        )
    return "\n".join(rows)
