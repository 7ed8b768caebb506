"""The launcher's contract: every adapter passes it, and the tests know only the port."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from resources.errors import Rejected, Unavailable
from resources.launcher import Launcher, WorkerSpec, WorkerState
from resources.launcher.inline import InlineLauncher
from resources.launcher.process import ProcessLauncher
from resources.settings import LauncherKind
from tests.contract import behaviours
from tests.contract.adapters import DEADLINE

Made = AbstractAsyncContextManager[Launcher]


@asynccontextmanager
async def inline_launcher(folder: Path) -> AsyncIterator[Launcher]:
    yield InlineLauncher(behaviours.behave, insist=0.2)


def behaving(spec: WorkerSpec) -> list[str]:
    return [sys.executable, behaviours.__file__, spec.module, spec.telemetry_id]


@asynccontextmanager
async def process_launcher(folder: Path) -> AsyncIterator[Launcher]:
    yield ProcessLauncher(folder / "logs", {"STREAMFORGE_HOME": str(folder)}, command=behaving)


LAUNCHERS: dict[str, Callable[[Path], Made]] = {"inline": inline_launcher, "process": process_launcher}

CAN_KILL = {"inline": False, "process": True}
"""Whether a worker that ignores every request can be ended all the same."""


@pytest.fixture(params=LAUNCHERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def opener(name: str, tmp_path: Path) -> Callable[[], Made]:
    return partial(LAUNCHERS[name], tmp_path)


@pytest.fixture
async def launcher(opener: Callable[[], Made]) -> AsyncIterator[Launcher]:
    async with opener() as launcher, launcher:
        yield launcher


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    path = tmp_path / "diary"
    path.touch()
    return path


def spec(module: str, telemetry_id: str, diary: Path) -> WorkerSpec:
    return WorkerSpec(module, telemetry_id, {"DIARY": str(diary)})


async def until(launcher: Launcher, telemetry_id: str, *states: str) -> WorkerState:
    async with asyncio.timeout(DEADLINE):
        while (found := (await launcher.states())[telemetry_id]).state not in states:
            await asyncio.sleep(0.005)
    return found


async def until_noted(diary: Path, text: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while text not in diary.read_text():
            await asyncio.sleep(0.005)


def test_every_launcher_setting_has_a_contract_run() -> None:
    assert set(LAUNCHERS) == set(get_args(LauncherKind))


async def test_states_follow_each_worker(launcher: Launcher, diary: Path) -> None:
    assert await launcher.states() == {}
    await launcher.start(spec("finish", "f__1", diary))
    await launcher.start(spec("polite", "p__1", diary))
    assert (await until(launcher, "f__1", "succeeded")).detail == ""
    await until_noted(diary, "p__1: began")
    assert (await launcher.states())["p__1"] == WorkerState("running")


async def test_a_failed_worker_keeps_its_cause_and_leaves_its_siblings_alone(
    launcher: Launcher, diary: Path
) -> None:
    await launcher.start(spec("polite", "p__1", diary))
    for module, cause in (("fail", "does not answer"), ("fail-in-groups", "does not answer"), ("exit", "3")):
        await launcher.start(spec(module, f"{module}__1", diary))
        assert cause in (await until(launcher, f"{module}__1", "failed")).detail
    assert (await launcher.states())["p__1"].state == "running"


async def test_stop_lets_a_worker_tidy_up_and_returns_when_it_is_gone(launcher: Launcher, diary: Path) -> None:
    await launcher.start(spec("polite", "p__1", diary))
    await until_noted(diary, "p__1: began")
    await asyncio.gather(launcher.stop("p__1", grace=DEADLINE), launcher.stop("p__1", grace=DEADLINE))
    assert "p__1: tidied up" in diary.read_text()
    assert (await launcher.states())["p__1"] == WorkerState("stopped")


async def test_stop_insists_after_the_grace(launcher: Launcher, diary: Path) -> None:
    await launcher.start(spec("slow-to-stop", "s__1", diary))
    await until_noted(diary, "s__1: began")
    await launcher.stop("s__1", grace=0.02)
    assert (await launcher.states())["s__1"].state == "stopped"


async def test_a_worker_that_ignores_every_request_is_killed_or_reported(
    launcher: Launcher, name: str, diary: Path
) -> None:
    await launcher.start(spec("stubborn", "s__1", diary))
    await until_noted(diary, "s__1: began")
    if CAN_KILL[name]:
        await launcher.stop("s__1", grace=0.02)
    else:
        with pytest.raises(Unavailable, match="s__1"):
            await launcher.stop("s__1", grace=0.02)
        assert (await launcher.states())["s__1"].state == "running"
        diary.with_name("release").touch()
        await launcher.stop("s__1", grace=DEADLINE)
    assert (await launcher.states())["s__1"].state == "stopped"


async def test_a_worker_stopped_before_its_first_step_is_gone(launcher: Launcher, diary: Path) -> None:
    await launcher.start(spec("polite", "p__1", diary))
    await launcher.stop("p__1", grace=DEADLINE)
    assert (await launcher.states())["p__1"].state == "stopped"


async def test_a_worker_that_fails_while_stopping_is_stopped_with_its_cause(
    launcher: Launcher, diary: Path
) -> None:
    await launcher.start(spec("fail-on-stop", "f__1", diary))
    await until_noted(diary, "f__1: began")
    await launcher.stop("f__1", grace=DEADLINE)
    state = (await launcher.states())["f__1"]
    assert state.state == "stopped"
    assert "last event" in state.detail


async def test_stopping_an_ended_or_unknown_worker_is_harmless(launcher: Launcher, diary: Path) -> None:
    await launcher.stop("unknown__1", grace=1)
    await launcher.start(spec("finish", "f__1", diary))
    await until(launcher, "f__1", "succeeded")
    await launcher.stop("f__1", grace=1)
    assert (await launcher.states())["f__1"].state == "succeeded"
    assert "unknown__1" not in await launcher.states()


async def test_a_cancelled_stop_has_still_asked(launcher: Launcher, diary: Path) -> None:
    await launcher.start(spec("polite", "p__1", diary))
    await until_noted(diary, "p__1: began")
    stopping = asyncio.create_task(launcher.stop("p__1", grace=DEADLINE))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    await until(launcher, "p__1", "stopped")
    assert "p__1: tidied up" in diary.read_text()


async def test_a_telemetry_id_starts_once(launcher: Launcher, diary: Path) -> None:
    await launcher.start(spec("finish", "f__1", diary))
    await until(launcher, "f__1", "succeeded")
    with pytest.raises(Rejected, match="f__1"):
        await launcher.start(spec("finish", "f__1", diary))


async def test_leaving_stops_every_worker(opener: Callable[[], Made], diary: Path) -> None:
    async with opener() as launcher:
        async with launcher:
            for number in range(5):
                await launcher.start(spec("polite", f"p__{number}", diary))
                await until_noted(diary, f"p__{number}: began")
        assert diary.read_text().count("tidied up") == 5
        assert {state.state for state in (await launcher.states()).values()} == {"stopped"}
        await launcher.__aexit__(None, None, None)
        with pytest.raises(Rejected):
            await launcher.start(spec("finish", "f__1", diary))
