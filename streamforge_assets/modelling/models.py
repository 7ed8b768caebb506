"""Models as artifacts: published whole, checked at every read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from resources.artifacts.port import Artifacts
from resources.artifacts.sealed import is_published, publish_sealed, read_sealed
from resources.errors import Rejected

METRICS, DATA, CARD = "metrics.json", "data.json", "model_card.md"


def model_prefix(interval: str, day: date) -> str:
    """Where the model of a day is kept."""
    return f"models/{interval}/{day}"


async def publish_model(artifacts: Artifacts, interval: str, day: date, folder: Path) -> None:
    """Keep everything below `folder` as the model of a day."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    await publish_sealed(artifacts, model_prefix(interval, day), files)


async def read_model_files(artifacts: Artifacts, interval: str, day: date) -> dict[str, bytes]:
    """The files of the model of a day.

    Raises:
        Rejected: when that day has none, it was never finished, or a file was changed.
    """
    prefix = model_prefix(interval, day)
    if not await artifacts.list(prefix):
        raise Rejected(f"there is no model of {day}; materialise models/gnn_model of that day first")
    return await read_sealed(artifacts, prefix)


async def model_inputs(artifacts: Artifacts, interval: str, day: date) -> str:
    """The digest of everything the model of a day was made from; empty when it has no whole model."""
    prefix = model_prefix(interval, day)
    if not await is_published(artifacts, prefix):
        return ""
    return str(json.loads((await read_sealed(artifacts, prefix, [DATA]))[DATA])["inputs"])


@contextmanager
def unpacked(files: Mapping[str, bytes]) -> Iterator[Path]:
    """The files in a folder, for libraries that read only files."""
    with TemporaryDirectory(prefix="streamforge-model-") as folder:
        root = Path(folder)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield root


def metrics_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What was measured when the model was trained."""
    found: dict[str, Any] = json.loads(files[METRICS])
    return found
