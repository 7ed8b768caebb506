"""Dagster's webserver and daemon as child processes, on the state of the home folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

from resources.errors import Rejected, Unavailable
from resources.settings import Settings
from streamforge_assets.local_dagster import dagster_home, open_instance
from streamforge_assets.lost_runs import end_lost_runs

STOP_GRACE = 20.0
_ENDING = (signal.SIGINT, signal.SIGTERM)


def serve_ui(settings: Settings, host: str, port: int) -> None:
    """End runs that were lost with their machine; run webserver and daemon until interrupted, or one of them ends.

    Raises:
        Rejected: when the web UI is not installed.
        Unavailable: when a process ends by itself.
    """
    if find_spec("dagster_webserver") is None:
        raise Rejected("the web UI is not installed; install it with: pip install 'streamforge[ui]'")
    home = dagster_home(settings)
    with open_instance(settings) as instance:
        end_lost_runs(instance)
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "STREAMFORGE_HOME": str(settings.home.absolute()),
        "PYTHONWARNINGS": "ignore",
    }
    workspace = ["-w", str(home / "workspace.yaml")]
    python = [sys.executable, "-m"]
    commands = {
        "webserver": [*python, "dagster_webserver", *workspace, "-h", host, "-p", str(port)],
        "daemon": [*python, "streamforge_assets.daemon", "run", *workspace],
    }
    # A shell starts background jobs with SIGINT ignored, which children inherit: neither we nor they would end.
    previous = {number: signal.signal(number, signal.default_int_handler) for number in _ENDING}
    processes = {name: subprocess.Popen(command, env=environment) for name, command in commands.items()}
    try:
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    raise Unavailable(f"Dagster's {name} ended with exit code {process.returncode}")
            time.sleep(0.5)
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for process in processes.values():
            try:
                process.wait(STOP_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
