"""Models as artifacts: published whole, checked at every read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from resources.artifacts.port import Artifacts
from resources.artifacts.sealed import is_published, publish_sealed, read_sealed
from resources.errors import Rejected

METRICS, DATA, CARD, HISTORY = "metrics.json", "data.json", "model_card.md", "history.json"


def model_prefix(interval: str, day: date) -> str:
    """Where the model of a day is kept."""
    return f"models/{interval}/{day}"


async def publish_model(artifacts: Artifacts, interval: str, day: date, files: Mapping[str, bytes]) -> None:
    """Keep `files` as the model of a day."""
    await publish_sealed(artifacts, model_prefix(interval, day), files)


def packed(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by relative name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


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


def require_torch() -> None:
    """Raise Rejected where torch is not installed."""
    if find_spec("torch") is None:
        raise Rejected("models need torch, which is not installed: pip install 'streamforge[gnn]'")


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


def curves(files: Mapping[str, bytes]) -> dict[str, list[float]]:
    """The training's curves as a report names them, one value an epoch; of what is kept by step, the last."""
    history = json.loads(files[HISTORY])
    epochs = len(history["train"])
    steps = [(epoch + 1) * len(history["loss"]) // epochs - 1 for epoch in range(epochs)]
    return {
        "loss": history["train"],
        "validation_loss": history["validation"][1:],  # the first is the untrained model's
        "lr": [history["learning_rate"][step] for step in steps],
        "grad_norm": [history["gradient_norm"][step] for step in steps],
    }
