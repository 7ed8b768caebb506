"""What only worker processes have: logs, an environment, and a bond with the process that started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from resources.errors import Rejected, Unavailable
from resources.launcher import WorkerSpec, open_launcher
from resources.launcher.process import ProcessLauncher, worker_command
from resources.settings import Settings
from tests.contract import behaviours

DEADLINE = 20.0


def python(code: str):
    return lambda spec: [sys.executable, "-c", code]


async def run_to_end(launcher: ProcessLauncher, telemetry_id: str, environment=None):
    await launcher.start(WorkerSpec("any", telemetry_id, environment or {}))
    async with asyncio.timeout(DEADLINE):
        while (state := (await launcher.states())[telemetry_id]).state == "running":
            await asyncio.sleep(0.01)
    return state


def test_a_worker_is_its_module_run_by_this_interpreter():
    command = worker_command(WorkerSpec("arango_connector", "c__1"))
    assert command == [sys.executable, "-m", "streamforge_assets.workers.arango_connector"]


async def test_a_worker_sees_its_spec_and_the_settings_and_no_other_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFORGE_WORKFLOWS", "7")
    monkeypatch.setenv("METRICS_PORT", "9000")
    monkeypatch.setenv("UNRELATED", "kept")
    code = "import os; print(*(f'{k}={v}' for k, v in os.environ.items()), sep='\\n')"
    settings = Settings(home=tmp_path, intervals=("1m", "5m"), workflows=3)
    async with ProcessLauncher(tmp_path / "logs", settings.environment(), command=python(code)) as launcher:
        assert (await run_to_end(launcher, "w__1", {"QUEUE_ID": "wf-1"})).state == "succeeded"
    said = set((tmp_path / "logs" / "w__1.log").read_text().splitlines())
    wanted = {"QUEUE_ID=wf-1", "STREAMFORGE_INTERVALS=1m,5m", "STREAMFORGE_WORKFLOWS=3", "UNRELATED=kept"}
    assert wanted <= said
    assert "METRICS_PORT=0" in said, "workers of one machine cannot share a fixed port"


def test_settings_survive_the_way_through_the_environment(tmp_path, monkeypatch):
    settings = Settings(
        home=tmp_path, intervals=("1m", "1h"), weight_share=0.5, start_date="2024-01-02", bus="embedded"
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


async def test_a_failed_worker_is_told_by_its_last_line_plain_or_json(tmp_path):
    code = 'import sys; print(\'{"message": "the disk is full"}\'); sys.exit(4)'
    async with ProcessLauncher(tmp_path, {}, command=python(code)) as launcher:
        assert (await run_to_end(launcher, "w__1")).detail == "exit code 4: the disk is full"
    async with ProcessLauncher(tmp_path, {}, command=python("raise ValueError('nonsense')")) as launcher:
        assert (await run_to_end(launcher, "w__2")).detail == "exit code 1: ValueError: nonsense"
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    async with ProcessLauncher(tmp_path, {}, command=python(code)) as launcher:
        assert (await run_to_end(launcher, "w__3")).detail == "killed by SIGKILL"


async def test_only_the_newest_logs_are_kept(tmp_path):
    (tmp_path / "notes.txt").touch()
    async with ProcessLauncher(tmp_path, {}, command=python(""), kept_logs=2) as launcher:
        for number in range(4):
            await run_to_end(launcher, f"w__{number}")
            os.utime(tmp_path / f"w__{number}.log", (number + 1, number + 1))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", "w__2.log", "w__3.log"]


async def test_what_cannot_be_started_says_why(tmp_path):
    async with ProcessLauncher(tmp_path, {}, command=lambda spec: ["/nonexistent/python"]) as launcher:
        with pytest.raises(Unavailable, match="w__1 cannot be started"):
            await launcher.start(WorkerSpec("any", "w__1"))
        assert await launcher.states() == {}
        with pytest.raises(Rejected, match="not a telemetry_id"):
            await launcher.start(WorkerSpec("any", "../w__1"))
    (tmp_path / "file").touch()
    async with open_launcher(Settings(home=tmp_path / "file", launcher="process"), None) as launcher:
        with pytest.raises(Unavailable, match="w__1 cannot be started"):
            await launcher.start(WorkerSpec("any", "w__1"))


async def test_a_frozen_worker_is_killed(tmp_path):
    """A stopped process does not take SIGTERM, and would be waited for in vain."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    async with ProcessLauncher(tmp_path, {}, command=python(code)) as launcher:
        await launcher.start(WorkerSpec("any", "w__1"))
        async with asyncio.timeout(DEADLINE):
            await launcher.stop("w__1", grace=0.2)
        assert (await launcher.states())["w__1"].state == "stopped"


STARTER = """
import asyncio, sys
from pathlib import Path

from resources.launcher import WorkerSpec
from resources.launcher.process import ProcessLauncher

async def main():
    folder = Path(sys.argv[1])
    command = lambda spec: [sys.executable, sys.argv[2], spec.module, spec.telemetry_id]
    async with ProcessLauncher(folder, {"DIARY": str(folder / "diary")}, command=command) as launcher:
        await launcher.start(WorkerSpec("stubborn", "w__1"))
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_worker_ends_with_the_process_that_started_it_even_on_kill_9(tmp_path):
    """Else a killed backfill would leave workers that write while the next one runs."""
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path), behaviours.__file__])
    diary = tmp_path / "diary"
    deadline = time.monotonic() + DEADLINE
    while not (diary.exists() and "began" in diary.read_text()):
        assert time.monotonic() < deadline, "the worker did not start"
        time.sleep(0.02)
    (worker,) = psutil.Process(starter.pid).children()
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    worker.wait(timeout=DEADLINE)
