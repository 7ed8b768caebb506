"""Sealed artifacts refuse what was never finished or was changed afterwards."""

import json

import pytest

from resources.artifacts.local import LocalArtifacts
from resources.artifacts.sealed import MANIFEST, SUCCESS, is_published, publish_sealed, read_sealed
from resources.errors import Rejected

FILES = {"weights.bin": b"\x00\x01" * 500, "config.json": b"{}"}


@pytest.fixture
async def artifacts(tmp_path):
    async with LocalArtifacts(tmp_path) as opened:
        await publish_sealed(opened, "models/one", FILES)
        yield opened


async def test_what_was_published_comes_back(artifacts):
    assert await is_published(artifacts, "models/one")
    assert await read_sealed(artifacts, "models/one") == FILES
    assert await read_sealed(artifacts, "models/one", ["config.json"]) == {"config.json": b"{}"}


async def test_a_changed_file_is_refused(artifacts, tmp_path):
    path = tmp_path / "models/one/weights.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\x02")
    with pytest.raises(Rejected, match=r"models/one/weights\.bin is not what was published"):
        await read_sealed(artifacts, "models/one")


@pytest.mark.parametrize("lost", ["weights.bin", SUCCESS, MANIFEST])
async def test_a_lost_file_is_refused_even_when_it_is_not_asked_for(artifacts, tmp_path, lost):
    (tmp_path / "models/one" / lost).unlink()
    with pytest.raises(Rejected, match="was never finished" if lost != "weights.bin" else "is gone"):
        await read_sealed(artifacts, "models/one", ["config.json"])


async def test_an_added_file_is_refused(artifacts, tmp_path):
    (tmp_path / "models/one/more.py").write_text("import os")
    with pytest.raises(Rejected, match=r"more\.py is not one of its files"):
        await read_sealed(artifacts, "models/one")


async def test_a_manifest_that_cannot_be_read_is_refused(artifacts, tmp_path):
    (tmp_path / "models/one" / MANIFEST).write_text(json.dumps([]))
    with pytest.raises(Rejected, match="cannot be read"):
        await read_sealed(artifacts, "models/one")


async def test_nothing_and_an_unknown_name_are_refused(artifacts):
    with pytest.raises(Rejected, match="there is no models/two"):
        await read_sealed(artifacts, "models/two")
    with pytest.raises(Rejected, match="has no other"):
        await read_sealed(artifacts, "models/one", ["other"])
    assert not await is_published(artifacts, "models/two")
