"""The artifacts' contract: every adapter passes it, and the tests know only the port."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from resources.artifacts import Artifacts, open_artifacts
from resources.errors import Rejected
from resources.settings import ArtifactsKind, Settings
from tests.contract.adapters import DEADLINE, on_every
from tests.contract.adapters import forkserver as _processes

Opener = Callable[[], Artifacts]
"""Makes one more door to the same artifacts. It can be sent to another process."""


@asynccontextmanager
async def local_artifacts(folder: Path) -> AsyncIterator[Opener]:
    yield partial(open_artifacts, Settings(artifacts="local", home=folder))


ARTIFACTS: dict[str, Callable[[Path], AbstractAsyncContextManager[Opener]]] = {"local": local_artifacts}

opener = on_every(ARTIFACTS)


@pytest.fixture
async def artifacts(opener: Opener) -> AsyncIterator[Artifacts]:
    async with opener() as artifacts:
        yield artifacts


def test_every_artifacts_setting_has_a_contract_run() -> None:
    assert set(ARTIFACTS) == set(get_args(ArtifactsKind))


async def test_a_file_comes_back_as_it_was_put(artifacts: Artifacts, tmp_path: Path) -> None:
    source = tmp_path / "model.pt"
    source.write_bytes(bytes(range(256)) * 5_000)
    await artifacts.put("a/b/c.bin", b"\x00\xff")
    await artifacts.put("a/b/c.bin", b"")
    await artifacts.put("modèles/ß ✓.pt", source)
    assert await artifacts.get("a/b/c.bin") == b""
    assert await artifacts.get("modèles/ß ✓.pt") == source.read_bytes()
    assert source.exists()


async def test_list_returns_whole_path_parts_sorted(artifacts: Artifacts) -> None:
    assert await artifacts.list() == []
    for key in ("m/2", "m/10/x", "n", "m1"):
        await artifacts.put(key, b"")
    assert await artifacts.list() == ["m/10/x", "m/2", "m1", "n"]
    assert await artifacts.list("m") == ["m/10/x", "m/2"]
    assert await artifacts.list("m/2") == ["m/2"]
    assert await artifacts.list("absent") == []


async def test_a_published_prefix_holds_exactly_its_files_and_the_marker(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"w")
    await artifacts.publish("models/m", {"model.pt": source, "report/index.html": b"<p>"})
    assert await artifacts.list("models/m") == [
        "models/m/_SUCCESS",
        "models/m/model.pt",
        "models/m/report/index.html",
    ]
    await artifacts.publish("models/m", {"other": b"2"})
    assert await artifacts.list("models") == ["models/m/_SUCCESS", "models/m/other"]
    assert await artifacts.get("models/m/other") == b"2"
    with pytest.raises(Rejected):
        await artifacts.get("models/m/model.pt")


async def test_publish_replaces_files_that_were_put_one_by_one(artifacts: Artifacts) -> None:
    await artifacts.put("m/old", b"1")
    await artifacts.publish("m", {"new": b"2"})
    assert await artifacts.list() == ["m/_SUCCESS", "m/new"]


async def test_a_publish_that_fails_changes_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    await artifacts.publish("m", {"a": b"1"})
    wrong: tuple[dict[str, bytes | Path], ...] = (
        {"a": b"2", "b": tmp_path / "absent"},
        {"a": b"2", "../b": b""},
        {"a": b"2", "_SUCCESS": b""},
    )
    for files in wrong:
        with pytest.raises(Rejected):
            await artifacts.publish("m", files)
        with pytest.raises(Rejected):
            await artifacts.publish("n", files)
    assert await artifacts.list() == ["m/_SUCCESS", "m/a"]
    assert await artifacts.get("m/a") == b"1"


async def test_delete_removes_a_file_or_a_whole_prefix(artifacts: Artifacts) -> None:
    await artifacts.publish("a/m", {"x": b"", "y/z": b""})
    await artifacts.put("a/n", b"")
    await artifacts.delete("a/m")
    await artifacts.delete("a/m")
    await artifacts.delete("absent/too")
    assert await artifacts.list() == ["a/n"]
    await artifacts.delete("a/n")
    assert await artifacts.list() == []
    await artifacts.put("a", b"a key again")
    assert await artifacts.list() == ["a"]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a\\b", "a\x00b"])
async def test_a_wrong_key_is_rejected_everywhere(artifacts: Artifacts, key: str) -> None:
    with pytest.raises(Rejected):
        await artifacts.put(key, b"")
    with pytest.raises(Rejected):
        await artifacts.get(key)
    with pytest.raises(Rejected):
        await artifacts.publish(key, {"a": b""})
    with pytest.raises(Rejected):
        await artifacts.publish("m", {key: b""})
    with pytest.raises(Rejected):
        await artifacts.delete(key)
    assert await artifacts.list() == []


async def test_an_absent_key_is_rejected(artifacts: Artifacts) -> None:
    await artifacts.put("a/b", b"")
    for key in ("absent", "a", "a/b/c", "a/c"):
        with pytest.raises(Rejected):
            await artifacts.get(key)


async def test_closing_twice_is_harmless_and_files_outlive_it(opener: Opener) -> None:
    async with opener() as artifacts:
        await artifacts.put("a", b"1")
        await artifacts.__aexit__(None, None, None)
    async with opener() as artifacts:
        assert await artifacts.get("a") == b"1"


async def test_a_cancelled_publish_happened_whole_or_not_at_all(artifacts: Artifacts) -> None:
    for number in range(20):
        publishing = asyncio.create_task(artifacts.publish(f"m{number}", {"a": b"1", "b": b"2"}))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    seen = await artifacts.list()
    assert all({f"m{n}/a", f"m{n}/b", f"m{n}/_SUCCESS"} <= set(seen) or f"m{n}/a" not in seen for n in range(20))


# --- several processes


async def _publish_versions(opener: Opener, versions: int) -> None:
    async with opener() as artifacts:
        for version in range(versions):
            files = {f"{version}-{part}": bytes(1000) for part in range(4)}
            await artifacts.publish("models/m", files)


def publish_versions(opener: Opener, versions: int) -> None:
    asyncio.run(_publish_versions(opener, versions))


def versions_in(keys: list[str]) -> set[str]:
    return {key.rsplit("/", 1)[1].split("-")[0] for key in keys if not key.endswith("_SUCCESS")}


async def test_a_reader_sees_one_whole_version_while_others_replace_it(opener: Opener) -> None:
    publishers = [_processes.Process(target=publish_versions, args=(opener, 10)) for _ in range(2)]
    seen = set()
    async with opener() as artifacts, asyncio.timeout(DEADLINE):
        await artifacts.publish("models/m", {f"x-{part}": b"" for part in range(4)})
        for publisher in publishers:
            publisher.start()
        while any(publisher.is_alive() for publisher in publishers):
            keys = await artifacts.list("models")
            assert len(keys) == 5
            assert len(versions_in(keys)) == 1
            seen |= versions_in(keys)
    assert [publisher.exitcode for publisher in publishers] == [0, 0]
    assert len(seen) > 2


async def test_a_publisher_killed_in_the_middle_leaves_a_whole_version(opener: Opener) -> None:
    publisher = _processes.Process(target=publish_versions, args=(opener, 10_000))
    publisher.start()
    async with opener() as artifacts, asyncio.timeout(DEADLINE):
        while versions_in(await artifacts.list()) <= {"0", "1"}:
            await asyncio.sleep(0.001)
        assert publisher.pid is not None
        os.kill(publisher.pid, signal.SIGKILL)
        while publisher.is_alive():
            await asyncio.sleep(0.01)
    async with opener() as artifacts:
        keys = await artifacts.list()
        assert len(keys) == 5
        assert len(versions_in(keys)) == 1
        await artifacts.publish("models/m", {"a": b"1"})
        assert await artifacts.list() == ["models/m/_SUCCESS", "models/m/a"]
