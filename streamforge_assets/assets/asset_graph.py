"""The asset `analysis/asset_graph`: who leads whom, from the window of features that ends with a day."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from resources.datasets import DAY
from resources.settings import Settings
from streamforge_assets.assets.daily import BACKFILL, Made, check_specs, make_days, trailing
from streamforge_assets.assets.features import FEATURES_KEY
from streamforge_assets.assets.session import Session
from streamforge_assets.gnn.report.small import small_adjacency
from streamforge_assets.graphs.graph import AssetGraph, Floats
from streamforge_assets.modelling.graphs import make_graph, overlap
from streamforge_assets.modelling.panels import Window
from streamforge_assets.modelling.storage import Storage
from streamforge_assets.partitions import dates

GRAPH_KEY = dg.AssetKey(["analysis", "asset_graph"])
STRONGEST = 12
LEAST_OVERLAP = 0.3
CHECKS = {
    "coverage": "no symbol and no day of the window was left out",
    "drift": f"at least {LEAST_OVERLAP:.0%} of the edges of this day and the one before are common (Jaccard)",
}


def asset_graph_asset(settings: Settings) -> dg.AssetsDefinition:
    """The directed graph between assets, by day."""

    @dg.asset(
        key=GRAPH_KEY,
        group_name="analysis",
        partitions_def=dates(settings),
        deps=[dg.AssetDep(FEATURES_KEY, partition_mapping=trailing(settings.model_window))],
        backfill_policy=BACKFILL,
        output_required=False,
        check_specs=check_specs(GRAPH_KEY, CHECKS),
        kinds={"numpy", "parquet"},
        description=(
            f"Lead-lag edges between assets, from the {settings.model_window} days that end with the partition's."
        ),
    )
    def asset_graph(
        context: dg.AssetExecutionContext, session: dg.ResourceParam[Session]
    ) -> Iterator[dg.AssetCheckResult]:
        with session.storage() as opened:

            def make(day: date) -> Made:
                async def work(storage: Storage) -> tuple[Window, AssetGraph, float | None]:
                    window, graph = await make_graph(storage, day)
                    return window, graph, await overlap(storage, day - DAY, graph)

                window, graph, common = opened.run(work)
                planted = session.planted(day, graph.symbols) if session.planted else None
                return Made(_metadata(window, graph, common, planted), _findings(window, common))

            yield from make_days(context, CHECKS, make)

    return asset_graph


def _findings(window: Window, common: float | None) -> dict[str, str]:
    findings: dict[str, str] = {}
    if window.warning:
        findings["coverage"] = window.warning
    if common is not None and common < LEAST_OVERLAP:
        findings["drift"] = f"only {common:.0%} of the edges are those of the day before; look for a new regime"
    return findings


def _metadata(window: Window, graph: AssetGraph, common: float | None, planted: Floats | None) -> dict[str, Any]:
    order = abs(graph.t).argsort()[::-1][:STRONGEST]
    strongest = [
        {
            "leader": graph.symbols[graph.leader[at]],
            "follower": graph.symbols[graph.follower[at]],
            "lag": int(graph.lag[at]),
            "weight": round(float(graph.weight[at]), 4),
            "t": round(float(graph.t[at]), 2),
        }
        for at in order
    ]
    metadata: dict[str, Any] = {
        "edges": graph.edges,
        "symbols": len(graph.symbols),
        "window": f"{window.first_day} to {window.last_day}",
        "left_out": ", ".join(window.left_out) or "none",
        "picture": dg.MetadataValue.md(small_adjacency(graph, planted)),
    }
    if strongest:
        metadata["strongest"] = dg.MetadataValue.table([dg.TableRecord(record) for record in strongest])
    if common is not None:
        metadata["common_with_the_day_before"] = common
    metadata |= {"parameters": dg.MetadataValue.json(dict(graph.parameters)), "data_hash": graph.data_hash}
    return metadata
