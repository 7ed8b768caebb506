"""Which days get features, graphs, models and forecasts when a range of days is trained on."""

from __future__ import annotations

from datetime import UTC, date, datetime

from resources.datasets import DAY, days
from resources.errors import Rejected


def plan_models(first: date, last: date, folds: int, *, window: int, cold: bool) -> dict[str, list[date]]:
    """The days [first, last] of each modelling asset, in the order in which the assets are made.

    Forecasts are made for the last `folds` days, each by the model of the day before; the last day gets a model
    too, for the days to come.

    Args:
        first: the first day whose market data are used.
        last: the last one.
        folds: days to forecast; fewer where the range has room for fewer.
        window: days of features that a model is made from.
        cold: nothing is stored of the day before `first`, so that `first` itself has no usable features.

    Raises:
        Rejected: the range is empty, not over yet, or too short for one model.
    """
    if last < first:
        raise Rejected(f"the range {first} to {last + DAY} is empty: its end is exclusive")
    if last >= datetime.now(UTC).date():
        raise Rejected(f"{last} is not over yet (UTC); the last day that can be asked for is the one before")
    count = (last - first).days + 1
    earliest = first + (window - 1 + cold) * DAY
    if earliest > last:
        one = " and one before them" if cold else ""
        raise Rejected(
            f"a model needs {window} days{one}, and there are {count} from {first} to {last};"
            f" ask for more, or set STREAMFORGE_MODEL_WINDOW={max(2, count - cold)}"
        )
    models = days(max(earliest, last - folds * DAY), last + DAY)
    return {
        "features": days(first, last + DAY),
        "asset_graph": models,
        "gnn_model": models,
        "forecasts": [day + DAY for day in models[:-1]],
    }
