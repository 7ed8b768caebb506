"""A health check: every setting and every port, one line each, with the next step where one is needed."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Literal

from resources.artifacts import open_artifacts
from resources.bus import open_bus
from resources.bus.port import Message
from resources.datasets import DAY, TRADES
from resources.errors import StreamForgeError
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.local_dagster import dagster_home
from streamforge_assets.workflow.platform import reachable_exchange

Grade = Literal["ok", "warn", "fail"]
LOW_DISK = 2 * 1024**3
LAUNCHERS = {
    "inline": "workers run in this process",
    "process": "each worker is a process of its own, which logs to <home>/logs",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it stands, and what was seen."""

    grade: Grade
    subject: str
    text: str


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Try every part that the settings choose, for real, and yield a finding for each."""
    yield Finding("ok", "settings", f"exchange {settings.exchange}, intervals {','.join(settings.intervals)}")
    parts: dict[str, Callable[[Settings], Awaitable[tuple[Grade, str]]]] = {
        "home": _home,
        "bus": _bus,
        "store": _store,
        "artifacts": _artifacts,
        "archive": _archive,
        "rest": _rest,
        "dagster": _dagster,
    }
    for subject, look in parts.items():
        try:
            grade, text = await look(settings)
        except (StreamForgeError, OSError) as error:
            # Without REST the archive still serves whole days; the other parts are needed.
            grade, text = ("warn" if subject == "rest" else "fail"), str(error)
        yield Finding(grade, subject, text)
    yield Finding("ok", "launcher", f"{settings.launcher}: {LAUNCHERS[settings.launcher]}")


async def _home(settings: Settings) -> tuple[Grade, str]:
    settings.home.mkdir(parents=True, exist_ok=True)
    probe = settings.home / ".doctor"
    probe.write_text("")
    probe.unlink()
    free = shutil.disk_usage(settings.home).free
    text = f"{settings.home.absolute()}, {free / 1024**3:.1f} GiB free"
    return ("warn", f"{text}: that is little") if free < LOW_DISK else ("ok", text)


async def _bus(settings: Settings) -> tuple[Grade, str]:
    topic = f"doctor-{uuid.uuid4().hex[:6]}"  # of its own, because another doctor may be at work
    async with open_bus(settings) as bus:
        await bus.publish(topic, [Message(b"ping")])
        try:
            async with bus.subscribe(topic, group="doctor") as messages:
                came = await messages.receive(timeout=5.0)
        finally:
            await bus.delete(topic)
    return ("ok", f"{settings.bus}: a message came back") if came else ("fail", "a message did not come back")


async def _store(settings: Settings) -> tuple[Grade, str]:
    async with open_store(settings) as store:
        return "ok", f"{settings.store}: {len(await store.partitions())} partitions"


async def _artifacts(settings: Settings) -> tuple[Grade, str]:
    async with open_artifacts(settings) as artifacts:
        return "ok", f"{settings.artifacts}: {len(await artifacts.list())} files"


async def _archive(settings: Settings) -> tuple[Grade, str]:
    day = datetime.now(UTC).date() - 3 * DAY
    async with reachable_exchange(settings) as exchange:
        found = await exchange.archive_checksum(TRADES, "BTCUSDT", day)
    return "ok", f"{settings.archive_address} {'has' if found else 'answers, but has no'} BTCUSDT of {day}"


async def _rest(settings: Settings) -> tuple[Grade, str]:
    async with reachable_exchange(settings) as exchange:
        skew = (await exchange.now() - datetime.now(UTC)).total_seconds()
    return "ok", f"{settings.rest_address} answers; its clock is {skew:+.1f} s from ours"


async def _dagster(settings: Settings) -> tuple[Grade, str]:
    home = dagster_home(settings)
    if find_spec("dagster_webserver") is None:
        return "warn", f"instance at {home}; for the web UI install streamforge[ui]"
    return "ok", f"instance at {home}"
