"""The model of a day: from stored features and graph to a sealed artifact, by way of a trainer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resources.errors import Rejected
from resources.settings import Settings
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.graphs.build import GraphConfig
from streamforge_assets.modelling.graphs import graph_config, read_graph
from streamforge_assets.modelling.jobs import Job, write_job
from streamforge_assets.modelling.models import model_inputs, packed, publish_model, read_model_files
from streamforge_assets.modelling.panels import Window, read_window
from streamforge_assets.modelling.storage import Storage
from streamforge_assets.modelling.trainer import Progress, open_trainer


@dataclass(frozen=True)
class ModelInputs:
    """What the model of a day is made from.

    Args:
        window: the features.
        job: what is trained.
        folder: where; kept when the training is interrupted, so that the next one goes on.
        trained: whether the stored model was made from the same inputs already.
    """

    window: Window
    job: Job
    folder: Path
    trained: bool
    settings: Settings

    def train(self, on_progress: Progress) -> None:
        """Train, in this thread.

        Raises:
            Rejected: when it cannot be trained.
            Unavailable: when it may be later.
        """
        write_job(self.folder, self.job)
        open_trainer(self.settings).train(self.folder, on_progress)


async def prepare(storage: Storage, day: date) -> ModelInputs:
    """Read the window and the graph of a day.

    Raises:
        Rejected: when either is absent, they do not belong together, or the window is not covered.
    """
    settings = storage.settings
    window = await read_window(
        storage.artifacts, storage.dataset, day, settings.model_window, settings.model_coverage
    )
    graph = await read_graph(storage.artifacts, settings.feature_interval, day)
    if graph.data_hash != window.panel.digest:
        raise Rejected(
            f"the graph of {day} was made from other features than those stored now; materialise"
            " analysis/asset_graph of that day again"
        )
    gnn, builder = GnnConfig(seed=settings.model_seed), graph_config(settings)
    manifest = {
        "interval": settings.feature_interval,
        "first_day": window.first_day.isoformat(),
        "last_day": window.last_day.isoformat(),
        "symbols": list(window.panel.symbols),
        "left_out": window.left_out,
        "absent_days": [str(absent) for absent in window.absent_days],
        "bars": window.panel.bars,
        "features_sha256": window.panel.digest,
        "graph_data_hash": graph.data_hash,
    }
    inputs = _digest(manifest, gnn, builder)
    job = Job(
        day, window.panel, graph, gnn, builder, settings.device, settings.threads, {**manifest, "inputs": inputs}
    )
    folder = settings.home / "training" / f"{day}-{inputs[:16]}"
    stored = await model_inputs(storage.artifacts, settings.feature_interval, day)
    return ModelInputs(window, job, folder, stored == inputs, settings)


async def finish(storage: Storage, inputs: ModelInputs) -> dict[str, bytes]:
    """Publish what was trained and clear its folder away; returns the model's files."""
    interval, day = storage.settings.feature_interval, inputs.job.day
    if inputs.trained:
        return await read_model_files(storage.artifacts, interval, day)
    files = packed(inputs.folder / "result")
    await publish_model(storage.artifacts, interval, day, files)
    shutil.rmtree(inputs.folder)
    return files


def _digest(manifest: Mapping[str, Any], gnn: GnnConfig, builder: GraphConfig) -> str:
    """Equal when the same data, configuration and libraries would be trained."""
    libraries = {name: version(name) for name in ("streamforge", "torch", "numpy")}
    everything = {"data": manifest, "gnn": asdict(gnn), "builder": asdict(builder), "libraries": libraries}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
