"""What only the embedded adapters promise: about their files, their disk, and other processes' locks."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from resources.artifacts import open_artifacts
from resources.artifacts.local import LocalArtifacts
from resources.artifacts.swap import swap
from resources.bus import Message, open_bus
from resources.bus.embedded import EmbeddedBus
from resources.errors import Rejected, Unavailable
from resources.launcher import WorkerSpec, open_launcher
from resources.settings import Settings

LARGE = Message(bytes(900_000))
SMALL = Message(bytes(60_000))


async def test_the_settings_choose_the_embedded_adapters(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new" / "home")

    async def work(spec: WorkerSpec) -> None:
        ran.append(spec.telemetry_id)

    ran: list[str] = []
    async with (
        open_bus(settings) as bus,
        open_artifacts(settings) as artifacts,
        open_launcher(settings, work) as go,
    ):
        await bus.publish("t", [LARGE])
        await artifacts.put("a", b"1")
        await go.start(WorkerSpec("m", "m__1"))
        await asyncio.sleep(0)
    assert ran == ["m__1"]
    assert {"bus.sqlite", "artifacts"} <= {path.name for path in settings.home.iterdir()}


@pytest.mark.parametrize("open_it", [open_bus, open_artifacts])
async def test_a_home_that_cannot_be_made_is_one_sentence_that_names_the_setting(
    tmp_path: Path, open_it: Callable[[Settings], object]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Rejected, match="STREAMFORGE_HOME") as caught:
        await open_it(Settings(home=tmp_path / "file" / "home")).__aenter__()  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)


async def test_a_file_that_is_no_log_is_rejected_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bus.sqlite"
    path.write_bytes(b"something of the user's" * 1000)
    with pytest.raises(Rejected, match="damaged"):
        await EmbeddedBus(path).__aenter__()
    assert path.read_bytes().startswith(b"something")
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Rejected, match="another version"):
        await EmbeddedBus(path).__aenter__()


async def test_a_lock_that_stays_is_unavailable_after_the_patience_and_nothing_is_published(
    tmp_path: Path,
) -> None:
    async with EmbeddedBus(tmp_path / "bus", patience=0.1) as bus:
        await bus.publish("t", [LARGE])
        with closing(sqlite3.connect(tmp_path / "bus", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="locked"):
                await bus.publish("t", [LARGE])
            assert await bus.end_offsets("t") == {0: 1}
        await bus.publish("t", [LARGE])
        assert await bus.end_offsets("t") == {0: 2}


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def test_deleted_topics_give_their_room_back(tmp_path: Path) -> None:
    """Each workflow makes a topic and deletes it: the file must not grow with their number."""
    path = tmp_path / "bus"
    async with EmbeddedBus(path) as bus:
        for number in range(8):
            await bus.publish(f"t{number}", [LARGE] * 10)
            await bus.publish(f"s{number}", [SMALL] * 200)
            await bus.delete(f"t{number}")
            await bus.delete(f"s{number}")
    assert folder_size(tmp_path) < 25_000_000


async def test_a_large_surplus_is_given_back_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.bus.sqlite_sweep._SPARE_PAGES", 100)
    path = tmp_path / "bus"
    async with EmbeddedBus(path) as bus:
        await bus.publish("kept", [Message(b"1")])
        await bus.publish("t", [LARGE] * 20)
        await bus.publish("t", [SMALL] * 300)
        await bus.publish("kept", [Message(b"2")])
        await bus.delete("t")
        async with bus.subscribe("kept", group="g") as subscription:
            assert [d.message.value for d in await subscription.receive()] == [b"1", b"2"]
    assert folder_size(tmp_path) < 3_000_000


async def test_a_value_that_the_disk_lost_is_named_and_never_handed_out_as_another(tmp_path: Path) -> None:
    """A loss of power can keep a message and lose the bytes of its value: zeros are no market data."""
    path = tmp_path / "bus"
    async with EmbeddedBus(path) as bus:
        await bus.publish("t", [LARGE, Message(bytes(range(256)) * 400)])
        (values,) = (tmp_path / "bus.values").iterdir()
        with values.open("r+b") as file:
            file.seek(-1000, 2)
            file.write(bytes(100))
        async with bus.subscribe("t", group="g") as subscription:
            assert [d.message.value for d in await subscription.receive(limit=1)] == [LARGE.value]
            with pytest.raises(Rejected, match="message 1 of t was lost"):
                await subscription.receive()
        values.write_bytes(b"")
        async with bus.subscribe("t", group="other") as subscription:
            with pytest.raises(Rejected, match="message 0 of t was lost"):
                await subscription.receive()


FULL_BUS = """
import asyncio, sys
from pathlib import Path
from resources.bus.embedded import EmbeddedBus
from resources.bus.port import Message
from resources.errors import Unavailable

async def main():
    async with EmbeddedBus(Path(sys.argv[1])) as bus:
        for number in range(1000):
            try:
                await bus.publish("t", [Message(bytes(100_000)) for _ in range(5)])
            except Unavailable:
                assert await bus.end_offsets("t") == {0: number * 5}
                print(number)
                return

asyncio.run(main())
"""

FULL_ARTIFACTS = """
import asyncio, sys
from pathlib import Path
from resources.artifacts.local import LocalArtifacts
from resources.errors import Unavailable

async def main():
    async with LocalArtifacts(Path(sys.argv[1])) as artifacts:
        await artifacts.publish("m", {"a": b"1"})
        try:
            await artifacts.publish("m", {"a": b"2", "b": bytes(20_000_000)})
        except Unavailable as error:
            assert "no room" in str(error)
            print(await artifacts.get("m/a"), await artifacts.list())

asyncio.run(main())
"""


def with_little_room(script: str, path: Path) -> str:
    """Run `script` where no file may pass 10 MB: for a writer, the same as a full disk, and needs no rights."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000)),
    )
    return done.stdout.strip()


async def test_a_bus_without_room_publishes_nothing_more_and_loses_nothing(tmp_path: Path) -> None:
    published = int(with_little_room(FULL_BUS, tmp_path / "bus"))
    assert published > 3
    async with EmbeddedBus(tmp_path / "bus") as bus:
        assert await bus.end_offsets("t") == {0: published * 5}
        await bus.publish("t", [LARGE])
        await bus.delete("t")


def test_artifacts_without_room_keep_the_old_version(tmp_path: Path) -> None:
    assert with_little_room(FULL_ARTIFACTS, tmp_path) == "b'1' ['m/_SUCCESS', 'm/a']"


async def test_remains_of_a_crash_are_removed_at_the_next_opening_and_work_in_progress_is_not(
    tmp_path: Path,
) -> None:
    artifacts = LocalArtifacts(tmp_path)
    async with artifacts:
        dead = tmp_path / ".staging" / "dead"
        (dead / "new").mkdir(parents=True)
        with artifacts._stage() as alive:
            async with LocalArtifacts(tmp_path) as other:
                assert not dead.exists()
                assert alive.exists()
                assert await other.list() == []
        assert not alive.exists()


async def test_a_prefix_is_replaced_where_folders_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.artifacts.local.swap", lambda one, other: False)
    async with LocalArtifacts(tmp_path) as artifacts:
        await artifacts.publish("m", {"a": b"1"})
        await artifacts.publish("m", {"b": b"2"})
        assert await artifacts.list() == ["m/_SUCCESS", "m/b"]


async def test_a_key_is_a_file_or_a_prefix(tmp_path: Path) -> None:
    async with LocalArtifacts(tmp_path) as artifacts:
        await artifacts.put("a/b", b"1")
        for wrong in (
            artifacts.put("a", b""),
            artifacts.put("a/b/c", b""),
            artifacts.publish("a/b", {"c": b""}),
            artifacts.publish("a/b/c", {"d": b""}),
            artifacts.publish("m", {"x": b"", "x/y": b""}),
        ):
            with pytest.raises(Rejected, match="either a file or a prefix"):
                await wrong
        assert await artifacts.list() == ["a/b"]


def test_swap_exchanges_or_explains(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("b")
    if swap(tmp_path / "a", tmp_path / "b"):
        assert (tmp_path / "a").read_text() == "b"
        assert (tmp_path / "b").is_dir()
    with pytest.raises(FileNotFoundError):
        swap(tmp_path / "a", tmp_path / "absent")
