"""The dummy service and its producer, started from their folder as an operator starts them."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest

from resources.metrics import METRICS

pytestmark = pytest.mark.e2e
FOLDER = Path(__file__).parents[2] / "services" / "dummy-service"
DEADLINE = 40.0


class Service:
    """A running dummy service: its log, and the address that it names there."""

    def __init__(self, *words: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.main", "--port", "0", *words],
            cwd=FOLDER,
            env=os.environ | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""
        self.url = self.line("pages are at ").split("pages are at ")[1].split("/metrics")[0]

    def line(self, text: str) -> str:
        """Read the log up to the first line with `text`."""
        for line in self.process.stderr:
            self.said += line
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}: {self.said}")

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=DEADLINE) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def ended(self) -> int:
        self.said += self.process.communicate(timeout=DEADLINE)[1]
        return self.process.returncode


@pytest.fixture
def service():
    started: list[Service] = []

    def start(*words: str, **environment: str) -> Service:
        started.append(Service(*words, **environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def producer(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "debug_producer.py", *words],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def records(page: str) -> float:
    (line,) = [line for line in page.splitlines() if line.startswith("streamforge_worker_records_total{")]
    return float(line.split()[-1])


def test_it_loads_answers_a_ping_and_stops(service):
    running = service("--debug", "--simulate-loading")
    assert running.page("/healthz")[0] == 200
    assert running.page("/readyz") == (200, '{"status":"ready"}')
    deadline = time.monotonic() + DEADLINE
    while not records(running.page("/metrics")[1]):
        assert time.monotonic() < deadline
    assert all(metric.name in running.page("/metrics")[1] for metric in METRICS)
    code, said, _ = producer("--queue-id", "dummy", "--command", "ping", "--expect-pong")
    assert code == 0
    assert said.startswith("pong from dummy-service__")
    assert producer("--queue-id", "dummy", "--command", "stop")[0] == 0
    assert running.ended() == 0
    assert "Stopped after" in running.said
    again = service("--simulate-loading")
    assert again.page("/readyz")[0] == 200, "a stop that was for its predecessor ended it"


def test_without_simulate_loading_it_waits_for_a_start(service):
    running = service("--total", "50", "--queue-id", "wf-7", "--target", "loader-producer")
    who = ("--queue-id", "wf-7", "--target", "loader-producer")
    code, said, _ = producer(*who, "--command", "ping", "--expect-pong")
    assert code == 0
    assert said.startswith("pong from loader-producer__")
    assert records(running.page("/metrics")[1]) == 0
    assert producer(*who, "--command", "start")[0] == 0
    assert running.ended() == 0
    last = json.loads(running.said.splitlines()[-1])
    assert last["record"]["extra"]["queue_id"] == "wf-7"
    assert "Loaded 50 records" in running.said


def test_fail_after_ends_with_the_cause_and_exit_code_1(service):
    running = service("--debug", "--simulate-loading", "--fail-after", "0.2")
    assert running.ended() == 1
    assert "failed after 0.2 s, as asked" in running.said.splitlines()[-1]


def test_a_hanging_one_answers_nothing_and_only_kill_ends_it(service):
    running = service("--debug", "--simulate-loading", "--hang-after", "0.1")
    running.line("hangs from now on")
    running.process.send_signal(signal.SIGTERM)
    code, _, said = producer("--queue-id", "dummy", "--command", "ping", "--expect-pong", "--timeout", "0.5")
    assert code == 1
    assert said.startswith("debug_producer: no pong came from dummy-service of dummy within 0.5 s")
    assert said.count("\n") == 1
    assert running.process.poll() is None


def test_one_whose_work_stands_still_answers_until_it_gives_itself_up(service):
    limits = {"STREAMFORGE_STALL_LIMIT": "8", "STREAMFORGE_SILENCE_LIMIT": "1"}
    running = service("--debug", "--simulate-loading", "--stall-after", "0.1", **limits)
    running.line("its work stands still from now on")
    assert producer("--queue-id", "dummy", "--command", "ping", "--expect-pong")[0] == 0
    assert running.ended() == 1
    assert "nothing new for" in running.said
    assert "has stood still for" in running.said.splitlines()[-1]


def test_a_slow_death_is_seen_as_not_ready(service):
    running = service("--debug", "--simulate-loading", "--slow-death", "600")
    running.process.send_signal(signal.SIGTERM)
    running.line("asked to stop by SIGTERM")
    assert running.page("/readyz")[0] == 503
    assert running.page("/healthz")[0] == 200
    running.line("takes its time to die")
    assert running.process.poll() is None


def test_a_sigterm_is_a_stop(service):
    running = service("--simulate-loading", "--error-rate", "1")
    running.line("is repeated, as asked")
    running.process.send_signal(signal.SIGTERM)
    assert running.ended() == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fail-after", "-1"], "-1 must be 0 or more"),
        (["--error-rate", "2"], "2 must lie between 0 and 1"),
        (["--host", "203.0.113.1"], "203.0.113.1:8000 cannot be used"),
    ],
)
def test_what_cannot_be_is_said_with_exit_code_2(words, sentence):
    done = subprocess.run(
        [sys.executable, "-m", "app.main", "--debug", *words],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]


def test_a_stop_is_not_answered_with_a_pong():
    code, _, said = producer("--queue-id", "dummy", "--command", "stop", "--expect-pong")
    assert code == 2
    assert "a stop is not answered with a pong" in said
