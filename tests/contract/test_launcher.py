"""The launcher's contract: every adapter passes it, and the tests know only the port."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import get_args

import pytest

from resources.errors import Rejected, Unavailable
from resources.launcher import Launcher, WorkerSpec, WorkerState
from resources.launcher.inline import InlineLauncher
from resources.settings import LauncherKind
from tests.contract.adapters import DEADLINE

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


@asynccontextmanager
async def inline_launcher() -> AsyncIterator[Launcher]:
    yield InlineLauncher(behave, insist=0.2)


LAUNCHERS: dict[str, Callable[[], AbstractAsyncContextManager[Launcher]]] = {"inline": inline_launcher}

CAN_KILL = {"inline": False}
"""Whether a worker that ignores every request can be ended all the same."""


@pytest.fixture(params=LAUNCHERS)
async def launcher(request: pytest.FixtureRequest) -> AsyncIterator[Launcher]:
    async with LAUNCHERS[request.param]() as launcher, launcher:
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


@pytest.mark.parametrize("name", LAUNCHERS)
async def test_a_worker_that_ignores_every_request_is_killed_or_reported(name: str, diary: Path) -> None:
    async with LAUNCHERS[name]() as launcher, launcher:
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


@pytest.mark.parametrize("name", LAUNCHERS)
async def test_leaving_stops_every_worker(name: str, diary: Path) -> None:
    async with LAUNCHERS[name]() as launcher:
        async with launcher:
            for number in range(5):
                await launcher.start(spec("polite", f"p__{number}", diary))
                await until_noted(diary, f"p__{number}: began")
        assert diary.read_text().count("tidied up") == 5
        assert {state.state for state in (await launcher.states()).values()} == {"stopped"}
        await launcher.__aexit__(None, None, None)
        with pytest.raises(Rejected):
            await launcher.start(spec("finish", "f__1", diary))
