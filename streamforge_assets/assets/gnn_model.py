"""The asset `models/gnn_model`: a graph network trained on the window of features that ends with a day."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg

from resources.settings import Settings
from streamforge_assets.assets.asset_graph import GRAPH_KEY
from streamforge_assets.assets.daily import BACKFILL, Made, check_specs, make_days, trailing
from streamforge_assets.assets.features import FEATURES_KEY
from streamforge_assets.assets.session import OpenPorts, Session
from streamforge_assets.gnn.report.small import small_loss
from streamforge_assets.modelling.models import CARD, curves, metrics_of
from streamforge_assets.modelling.storage import Storage
from streamforge_assets.modelling.training import ModelInputs, finish, prepare
from streamforge_assets.partitions import dates

MODEL_KEY = dg.AssetKey(["models", "gnn_model"])
CHECKS = {
    "coverage": "no symbol and no day of the window was left out",
    "has_edges": "the model has a graph to send messages over; without one it can only use own lags",
    "gate_helps": "on validation bars the gated network beats the same edges without gate",
}


def gnn_model_asset(settings: Settings) -> dg.AssetsDefinition:
    """The trained model, by day."""
    window = trailing(settings.model_window)

    @dg.asset(
        key=MODEL_KEY,
        group_name="models",
        partitions_def=dates(settings),
        deps=[dg.AssetDep(FEATURES_KEY, partition_mapping=window), dg.AssetDep(GRAPH_KEY)],
        backfill_policy=BACKFILL,
        output_required=False,
        check_specs=check_specs(MODEL_KEY, CHECKS),
        kinds={"pytorch"},
        pool="training",
        description=(
            f"A graph network and its baselines, trained on the {settings.model_window} days that end with the"
            " partition's."
        ),
    )
    def gnn_model(
        context: dg.AssetExecutionContext, session: dg.ResourceParam[Session]
    ) -> Iterator[dg.AssetCheckResult]:
        with session.storage() as opened:
            yield from make_days(context, CHECKS, lambda day: _train(opened, day))

    return gnn_model


def _train(opened: OpenPorts[Storage], day: date) -> Made:
    """Train in this thread, not on the ports' loop, which must go on answering."""

    async def before(storage: Storage) -> ModelInputs:
        return await prepare(storage, day)

    inputs = opened.run(before)
    if not inputs.trained:
        with opened.session.noting_interrupts():
            inputs.train(lambda done: opened.session.training(day, done))

    async def after(storage: Storage) -> dict[str, bytes]:
        return await finish(storage, inputs)

    files = opened.run(after)
    return Made(_metadata(inputs, files), _findings(inputs, metrics_of(files)))


def _metadata(inputs: ModelInputs, files: Mapping[str, bytes]) -> dict[str, Any]:
    metrics = metrics_of(files)
    plain = {name: value for name, value in metrics.items() if isinstance(value, (int, float, str))}
    return {
        **{name: value for name, value in plain.items() if value != ""},
        "picture": dg.MetadataValue.md(small_loss(curves(files))),
        "window": f"{inputs.window.first_day} to {inputs.window.last_day}",
        "symbols": len(inputs.job.panel.symbols),
        "left_out": ", ".join(inputs.window.left_out) or "none",
        "trained": "not again: made from the same inputs already" if inputs.trained else "in this run",
        "bytes": sum(len(content) for content in files.values()),
        "features_sha256": inputs.job.panel.digest,
        "card": dg.MetadataValue.md(files[CARD].decode()),
    }


def _findings(inputs: ModelInputs, metrics: Mapping[str, Any]) -> dict[str, str]:
    findings: dict[str, str] = {}
    if inputs.window.warning:
        findings["coverage"] = inputs.window.warning
    if not metrics["edges"]:
        findings["has_edges"] = str(metrics["note"]) or "the graph is empty"
    elif not metrics["gated"]:
        findings["gate_helps"] = "the gate did not help on the validation bars and is not used"
    return findings
