"""The process launcher: every worker is a process of its own on this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from resources.errors import Rejected, Unavailable
from resources.launcher.lifeline import STARTED_BY
from resources.launcher.port import Launcher, WorkerSpec, WorkerState

_log = logging.getLogger(__name__)

PACKAGE: Final = "streamforge_assets.workers"
METRICS_PORT: Final = "METRICS_PORT"

_LEAVING_GRACE: Final = 5.0
_TAIL_BYTES: Final = 8192
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")

Command = Callable[[WorkerSpec], Sequence[str]]


def worker_command(spec: WorkerSpec) -> list[str]:
    """The command line of a worker: its module, run by this interpreter."""
    return [sys.executable, "-m", f"{PACKAGE}.{spec.module}"]


@dataclass(slots=True)
class _Child:
    process: asyncio.subprocess.Process
    log: Path
    asked: bool = False
    killed: bool = False


class ProcessLauncher(Launcher):
    """Workers as child processes. SIGTERM asks one to end; after `grace` seconds SIGKILL ends it.

    A worker has this process's environment without its `STREAMFORGE_*` variables, then `environment`, then that
    of its spec. What it prints goes to `<logs>/<telemetry_id>.log`; the newest `kept_logs` files stay. The cause
    of a failure is the last line that the worker printed. Workers end with this process, even when it is killed;
    they must call `lifeline.hold` for that.

    Args:
        logs: folder of the log files; made as needed.
        environment: variables that every worker gets, such as those of the settings.
        command: the command line of a worker.
        kept_logs: log files that stay when another worker is started, the new one included.
        insist: seconds for a killed process to disappear.
    """

    def __init__(
        self,
        logs: Path,
        environment: Mapping[str, str],
        *,
        command: Command = worker_command,
        kept_logs: int = 200,
        insist: float = 5.0,
    ) -> None:
        self._logs = logs
        self._environment = dict(environment)
        self._command = command
        self._kept_logs = kept_logs
        self._insist = insist
        self._children: dict[str, _Child] = {}
        self._open = False

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop all workers at once, with 5 seconds of grace. Raises Unavailable naming those that stay."""
        self._open = False
        results = await asyncio.gather(
            *(self.stop(telemetry_id, grace=_LEAVING_GRACE) for telemetry_id in self._children),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def start(self, spec: WorkerSpec) -> None:
        """Start a worker as a child of this process. Its log file exists on return."""
        if not self._open:
            raise Rejected(f"{spec.telemetry_id} cannot be started: the launcher is not open; use `async with`")
        if spec.telemetry_id in self._children:
            raise Rejected(f"{spec.telemetry_id} was started before; each start needs a telemetry_id of its own")
        if not _NAME.fullmatch(spec.telemetry_id):
            raise Rejected(f"{spec.telemetry_id!r} is not a telemetry_id: use letters, digits, dots, dashes")
        log = self._logs / f"{spec.telemetry_id}.log"
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            _prune(self._logs, keep=self._kept_logs - 1)
            with log.open("ab") as output:
                # Forked by the loop's own thread: Linux kills a child when the thread that made it ends.
                process = await asyncio.create_subprocess_exec(
                    *self._command(spec),
                    env=self._variables(spec),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    # An interrupt from the terminal is for this process, which then stops its workers in order.
                    start_new_session=True,
                )
        except OSError as error:
            raise Unavailable(
                f"{spec.telemetry_id} cannot be started ({error.strerror or error}); its log would be {log}"
            ) from error
        self._children[spec.telemetry_id] = _Child(process, log)

    async def stop(self, telemetry_id: str, *, grace: float) -> None:
        """Send SIGTERM, SIGKILL after `grace` seconds, and return when the process is gone and reaped."""
        child = self._children.get(telemetry_id)
        if child is None or child.process.returncode is not None:
            return
        # A second stop waits with the first: a second signal would cut the worker's grace short.
        if not child.asked:
            child.asked = True
            _send(child.process, signal.SIGTERM)
        if await _ends(child.process, grace):
            return
        child.killed = True
        _send(child.process, signal.SIGKILL)
        if not await _ends(child.process, self._insist):
            raise Unavailable(
                f"{telemetry_id} (process {child.process.pid}) is still there {self._insist:g} s after SIGKILL: it"
                " waits for a device that does not answer"
            )

    async def states(self) -> Mapping[str, WorkerState]:
        """Return the state of every worker that this launcher started, by telemetry_id."""
        return {telemetry_id: _state(child) for telemetry_id, child in self._children.items()}

    def _variables(self, spec: WorkerSpec) -> dict[str, str]:
        # Workers of one machine cannot share a fixed metrics port; each takes a free one and logs it.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STREAMFORGE_")}
        if inherited.get(METRICS_PORT):
            inherited[METRICS_PORT] = "0"
        return {**inherited, **self._environment, STARTED_BY: str(os.getpid()), **spec.environment}


async def _ends(process: asyncio.subprocess.Process, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return process.returncode is not None
    return True


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal the worker; SIGKILL also reaches whatever it has started itself."""
    try:
        if number is signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    except ProcessLookupError:
        pass  # it has ended by itself


def _state(child: _Child) -> WorkerState:
    code = child.process.returncode
    if code is None:
        return WorkerState("running")
    if child.asked:
        ended_as_asked = code in {0, -signal.SIGTERM} or child.killed
        return WorkerState("stopped", "" if ended_as_asked else _cause(code, child.log))
    return WorkerState("succeeded") if code == 0 else WorkerState("failed", _cause(code, child.log))


def _cause(code: int, log: Path) -> str:
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    said = _last_words(log)
    return f"{how}: {said}" if said and code > 0 else how


def _last_words(log: Path) -> str:
    """The message of the last line in `log`, plain or JSON; empty without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    if not lines:
        return ""
    try:
        return str(json.loads(lines[-1])["message"])
    except (ValueError, KeyError, TypeError):
        return lines[-1]


def _prune(logs: Path, *, keep: int) -> None:
    files = sorted(logs.glob("*.log"), key=_modified, reverse=True)
    for old in files[max(keep, 0) :]:
        try:
            old.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the old log %s cannot be removed: %s", old, error)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0  # removed by another launcher at this moment
