"""Workers for the launcher's suite, named by what they do. They run in this process or in their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from resources.errors import Unavailable
from resources.launcher import lifeline
from resources.launcher.port import WorkerSpec

Note = Callable[[str], None]


async def behave(spec: WorkerSpec) -> None:
    """A worker whose module says what it does, and which writes in a file what has happened to it."""
    diary = Path(spec.environment["DIARY"])

    def note(text: str) -> None:
        with diary.open("a") as file:
            file.write(f"{spec.telemetry_id}: {text}\n")

    note("began")
    if spec.module in ENDINGS:
        await ENDINGS[spec.module]()
    else:
        await STOPS[spec.module](note, diary.with_name("release"))


async def finish() -> None:
    return


async def fail() -> None:
    raise Unavailable("the exchange does not answer")


async def fail_in_groups() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


async def leave() -> None:
    sys.exit(3)


async def tidy_up(note: Note, release: Path) -> None:
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.01)
        note("tidied up")


async def fail_on_stop(note: Note, release: Path) -> None:
    try:
        await asyncio.sleep(600)
    finally:
        raise Unavailable("the last event was not sent")


async def stop_slowly(note: Note, release: Path) -> None:
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        await asyncio.sleep(600)


async def ignore(note: Note, release: Path) -> None:
    while not release.exists():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


ENDINGS = {"finish": finish, "fail": fail, "fail-in-groups": fail_in_groups, "exit": leave}
STOPS = {"polite": tidy_up, "fail-on-stop": fail_on_stop, "slow-to-stop": stop_slowly, "stubborn": ignore}


async def as_process(spec: WorkerSpec) -> None:
    """SIGTERM is to a process what cancellation is to a task."""
    task = asyncio.ensure_future(behave(spec))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def main() -> None:
    lifeline.hold(os.environ)
    try:
        asyncio.run(as_process(WorkerSpec(sys.argv[1], sys.argv[2], dict(os.environ))))
    except* Unavailable as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        sys.exit(str(first))


if __name__ == "__main__":
    main()
