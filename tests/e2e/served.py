"""Programs as processes, and clients of them: Dagster's web UI with its daemon, the queue-manager."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from resources.settings import PREFIX

DEADLINE = 150.0
TOKEN = "0123456789abcdef0123456789abcdef"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def surroundings(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that knows these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "DAGSTER_HOME"))}
    return kept | variables


@contextlib.contextmanager
def serving_dagster(variables: Mapping[str, str]) -> Iterator[str]:
    """Run `streamforge ui`; gives its address once it answers."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamforge_assets.cli", "ui", "--port", str(port)],
        env=surroundings(variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{url}/server_info", timeout=2)
                break
            except OSError:
                assert process.poll() is None, "the web UI ended by itself"
                assert time.monotonic() < deadline, "the web UI did not come up"
                time.sleep(0.3)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


class QueueManager:
    """A process `streamforge queue-manager`, and a client of it."""

    def __init__(self, variables: Mapping[str, str], dagster_url: str, folder: Path) -> None:
        (folder / "token").write_text(TOKEN)
        self._environment = surroundings({**variables, "STREAMFORGE_API_TOKEN_FILE": str(folder / "token")})
        self.dagster_url = dagster_url
        port = free_port()
        self._words = ["queue-manager", "--port", str(port), "--dagster-url", dagster_url]
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
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
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/readyz").status_code == 200:
                    return
            assert self.process.poll() is None, "the queue-manager ended by itself"
            assert time.monotonic() < deadline, "the queue-manager did not come up"
            time.sleep(0.2)

    def ended(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def begin(self, **wanted: object) -> str:
        answer = self.http.post("/workflows", json=wanted)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def look(self, identity: str) -> dict:
        answer = self.http.get(f"/workflows/{identity}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def until(self, identity: str, true: Callable[[dict], object]) -> dict:
        deadline = time.monotonic() + DEADLINE
        while not true(seen := self.look(identity)):
            assert time.monotonic() < deadline, seen
            time.sleep(0.2)
        return seen

    def follow(self, identity: str) -> Iterator[tuple[str, str]]:
        """The events of a workflow, each with its data, until the stream ends."""
        path = f"/workflows/{identity}/events"
        with self.http.stream("GET", path, timeout=DEADLINE) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            event: dict[str, str] = {}
            for line in stream.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                elif event:
                    yield event.get("event", ""), event.get("data", "")
                    event = {}

    def told(self, identity: str) -> list[dict]:
        """Every state of a workflow that its events tell, up to the last."""
        return [json.loads(data) for name, data in self.follow(identity) if name == "workflow"]
