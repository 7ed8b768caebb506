"""The inline launcher: every worker is an asyncio task in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Self

from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.launcher.port import Entrypoint, Launcher, WorkerSpec, WorkerState

_log = logging.getLogger(__name__)

_LEAVING_GRACE: Final = 5.0


class InlineLauncher(Launcher):
    """Workers as tasks. Cancellation of its task is to a worker here what SIGTERM is to a process.

    A worker may take `grace` seconds to end after that; then it is cancelled again and again for `insist`
    seconds. A task cannot be killed: one that swallows all of it is reported by Unavailable, and stays
    "running". A worker that was asked to stop is "stopped" however it ended, with the cause as `detail` if it
    failed on its way out. Workers do not affect each other: not by an error, and not by `sys.exit`.

    Args:
        entrypoint: runs one worker until it has finished.
        insist: seconds for a worker to go after its grace has passed.
    """

    def __init__(self, entrypoint: Entrypoint, *, insist: float = 5.0) -> None:
        self._entrypoint = entrypoint
        self._insist = insist
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asked: set[str] = set()
        self._open = False

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop all workers at once, with 5 seconds of grace. Raises Unavailable naming those that stay."""
        self._open = False
        await self._end(self._tasks, grace=_LEAVING_GRACE)

    async def start(self, spec: WorkerSpec) -> None:
        """Start a worker as a task of the running loop."""
        if not self._open:
            raise Rejected(f"{spec.telemetry_id} cannot be started: the launcher is not open; use `async with`")
        if spec.telemetry_id in self._tasks:
            raise Rejected(f"{spec.telemetry_id} was started before; each start needs a telemetry_id of its own")
        task = asyncio.create_task(self._run(spec), name=spec.telemetry_id)
        task.add_done_callback(_report)
        self._tasks[spec.telemetry_id] = task

    async def stop(self, telemetry_id: str, *, grace: float) -> None:
        """Cancel the worker, insist after `grace` seconds, and return when it is gone.

        Raises Unavailable if it swallows its cancellation, Rejected if a worker tries to stop itself.
        """
        task = self._tasks.get(telemetry_id)
        if task is not None and task is asyncio.current_task():
            raise Rejected(f"{telemetry_id} cannot wait for its own end; let it return instead")
        if task is not None:
            await self._end({telemetry_id: task}, grace=grace)

    async def states(self) -> Mapping[str, WorkerState]:
        """Return the state of every worker that this launcher started, by telemetry_id."""
        return {telemetry_id: self._state(telemetry_id, task) for telemetry_id, task in self._tasks.items()}

    async def _run(self, spec: WorkerSpec) -> None:
        try:
            await self._entrypoint(spec)
        except SystemExit as error:
            # asyncio would let it through to the loop, and so end every other worker too.
            if error.code not in (None, 0):
                raise RuntimeError(f"the worker ended with exit code {error.code}") from error

    async def _end(self, tasks: Mapping[str, asyncio.Task[None]], *, grace: float) -> None:
        left = {telemetry_id: task for telemetry_id, task in tasks.items() if not task.done()}
        for telemetry_id, task in left.items():
            # A second stop waits with the first: a second cancellation would cut the worker's grace short.
            if telemetry_id not in self._asked:
                self._asked.add(telemetry_id)
                task.cancel()
        left = await _outlast(left, grace)
        rounds = 5
        for _ in range(rounds):
            for task in left.values():
                task.cancel()
            left = await _outlast(left, self._insist / rounds)
        if left:
            names = ", ".join(sorted(left))
            raise Unavailable(
                f"{names} did not end {grace + self._insist:g} s after being asked to: the worker swallows its"
                " cancellation; end this process to be rid of it"
            )

    def _state(self, telemetry_id: str, task: asyncio.Task[None]) -> WorkerState:
        if not task.done():
            return WorkerState("running")
        asked = telemetry_id in self._asked
        if task.cancelled():
            return WorkerState("stopped") if asked else WorkerState("failed", "the worker cancelled itself")
        error = task.exception()
        if error is not None:
            return WorkerState("stopped" if asked else "failed", _cause(error))
        return WorkerState("stopped" if asked else "succeeded")


async def _outlast(tasks: Mapping[str, asyncio.Task[None]], timeout: float) -> dict[str, asyncio.Task[None]]:
    if tasks:
        await asyncio.wait(tasks.values(), timeout=timeout)
    return {telemetry_id: task for telemetry_id, task in tasks.items() if not task.done()}


def _report(task: asyncio.Task[None]) -> None:
    # Asking for the exception also keeps asyncio from complaining that nobody did.
    if not task.cancelled() and (error := task.exception()) is not None:
        # Our own errors are sentences; only an unexpected one needs its traceback.
        shown = None if isinstance(error, StreamForgeError) else error
        _log.warning("%s failed: %s", task.get_name(), _cause(error), exc_info=shown)


def _cause(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(_cause(part) for part in error.exceptions))
    if isinstance(error, StreamForgeError):
        return str(error)
    return f"{type(error).__name__}: {error}"
