"""The queue-manager before a real Dagster: a pipeline goes on through a restart, another one is stopped."""

import asyncio
import json
import os
import subprocess
import sys
import time

import httpx
import pytest

from streamforge_assets.simulator.faults import Slow
from tests.e2e.test_web_ui import free_port, web_ui
from tests.simulated import END, START, SYMBOL, assert_same, environment, stored_rows, true_rows

__all__ = ["web_ui"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

DEADLINE = 150.0
TOKEN = "0123456789abcdef0123456789abcdef"


class QueueManager:
    """A process `streamforge queue-manager`, and a client of it."""

    def __init__(self, settings, dagster_url: str, folder) -> None:
        (folder / "token").write_text(TOKEN)
        self._environment = (
            os.environ | environment(settings) | {"STREAMFORGE_API_TOKEN_FILE": str(folder / "token")}
        )
        self._port = free_port()
        self._words = ["queue-manager", "--port", str(self._port), "--dagster-url", dagster_url]
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
            trust_env=False,
        )
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamforge_assets.cli", *self._words], env=self._environment
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.http.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, "the queue-manager ended by itself"
            assert time.monotonic() < deadline, "the queue-manager did not come up"
            time.sleep(0.2)

    def ended(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=20)

    def begin(self, **wanted) -> str:
        answer = self.http.post(
            "/workflows", json={"symbols": [SYMBOL], "start": str(START), "end": str(END)} | wanted
        )
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def until(self, identity: str, true) -> dict:
        deadline = time.monotonic() + DEADLINE
        while not true(seen := self.http.get(f"/workflows/{identity}").json()):
            assert time.monotonic() < deadline, seen
            time.sleep(0.2)
        return seen


@pytest.fixture
def queue_manager(web_ui, settings, tmp_path):
    running = QueueManager(settings, web_ui, tmp_path)
    yield running
    running.process.kill()
    running.process.wait()


def followed(queue_manager, identity: str) -> list[dict]:
    """Every state of a workflow that its events tell, up to the last."""
    with queue_manager.http.stream("GET", f"/workflows/{identity}/events", timeout=DEADLINE) as stream:
        return [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]


def test_a_pipeline_ends_at_the_truth_through_a_restart_and_another_one_stops_when_asked(
    queue_manager, settings, exchange
):
    """Both at once: Dagster looks after backfills every 30 seconds only."""
    assert httpx.get(f"{queue_manager.http.base_url}/workflows", trust_env=False).status_code == 401
    exchange.faults.add(Slow(where="archive", seconds=2.0, times=1000))
    endless = queue_manager.begin(stages=["load"], datasets=["trades"], start="2024-07-02", end="2024-07-31")
    wanted = queue_manager.begin(stages=["load", "store"])
    for identity in (endless, wanted):
        queue_manager.until(identity, lambda seen: seen["stages"][0]["backfill"])
    assert queue_manager.ended() == 0
    queue_manager.start()

    queue_manager.until(endless, lambda seen: any(one["state"] == "running" for one in seen["workflows"]))
    assert queue_manager.http.post(f"/workflows/{endless}/stop").status_code == 202

    last = followed(queue_manager, wanted)[-1]
    assert (last["state"], last["message"]) == ("finished", "")
    assert [(s["name"], s["state"], s["targeted"], s["done"]) for s in last["stages"]] == [
        ("load", "finished", 6, 6),
        ("store", "finished", 6, 6),
    ]
    for dataset in ("trades", "candles_5m"):
        stored = asyncio.run(stored_rows(settings, dataset, SYMBOL, START, END))
        assert_same(stored, true_rows(exchange, dataset, SYMBOL, START, END))

    # A run that was killed before it could tidy up is noticed later, and its workers are told directly.
    seen = queue_manager.until(endless, lambda seen: {one["state"] for one in seen["workflows"]} == {"cancelled"})
    assert seen["state"] in {"stopping", "cancelled"}
