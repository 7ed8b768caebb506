"""What the stages of a pipeline make: assets and days."""

from __future__ import annotations

from resources.datasets import DAY
from resources.settings import Settings
from streamforge_assets.assets.asset_graph import GRAPH_KEY
from streamforge_assets.assets.features import FEATURES_KEY
from streamforge_assets.assets.forecasts import FORECASTS_KEY
from streamforge_assets.assets.gnn_model import MODEL_KEY
from streamforge_assets.model_plan import plan_models
from streamforge_assets.partitions import market_asset_key
from streamforge_assets.queue_manager.description import Description, StageName
from streamforge_assets.queue_manager.pipeline import Stage
from streamforge_assets.remote_dagster import Target
from streamforge_assets.request import Request

_MODELLING = {key.path[-1]: tuple(key.path) for key in (FEATURES_KEY, GRAPH_KEY, MODEL_KEY, FORECASTS_KEY)}
_MADE_BY: dict[StageName, tuple[str, ...]] = {
    "graph": ("features", "asset_graph"),
    "train": ("gnn_model", "forecasts"),
}


def plan_stages(description: Description, request: Request, settings: Settings, *, cold: bool) -> list[Stage]:
    """The stages that `description` asks for, each with the partitions that it makes.

    Args:
        description: what the client wants.
        request: its market data, checked.
        settings: give the window of models.
        cold: nothing is stored of the day before the first.

    Raises:
        Rejected: there are too few days for one model, and models or graphs are asked for.
    """
    market = tuple(
        Target(tuple(market_asset_key(dataset.name).path), request.days[0], request.days[-1], request.symbols)
        for dataset in request.datasets
    )
    targets: dict[StageName, tuple[Target, ...]] = {"load": market, "store": ()}
    if set(_MADE_BY) & set(description.stages):
        days = plan_models(
            request.start, request.end - DAY, description.folds, window=settings.model_window, cold=cold
        )
        for stage, names in _MADE_BY.items():
            targets[stage] = tuple(
                Target(_MODELLING[name], days[name][0], days[name][-1]) for name in names if days[name]
            )
    return [Stage(name=name, targets=targets[name]) for name in description.stages]
