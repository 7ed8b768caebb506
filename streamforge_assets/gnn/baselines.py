"""Baselines by name, and from their files. Imports no torch, and LightGBM only where its baselines are made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from resources.errors import Rejected
from streamforge_assets.gnn.linear_baselines import ArRidge, Baseline, Persistence, SparseVar, VarRidge, Zero
from streamforge_assets.gnn.tree_baselines import GraphTrees, LeaderTrees, OwnTrees

__all__ = ["BASELINES", "DEFAULTS", "Baseline", "SparseVar", "load_baseline", "make_baselines"]

BASELINES: dict[str, type[Baseline]] = {
    kind.name: kind
    for kind in (Zero, Persistence, ArRidge, VarRidge, SparseVar, OwnTrees, GraphTrees, LeaderTrees)
}
DEFAULTS = tuple(name for name in BASELINES if name != LeaderTrees.name)


def make_baselines(names: Sequence[str] = (), *, threads: int = 1) -> tuple[list[Baseline], list[str]]:
    """Baselines by name, `DEFAULTS` if none is given, and a sentence for each that cannot run here.

    Raises:
        Rejected: for a name that no baseline has.
    """
    made: list[Baseline] = []
    missing: list[str] = []
    for name in names or DEFAULTS:
        kind = BASELINES.get(name)
        if kind is None:
            raise Rejected(f"no baseline is called {name!r}; there are {', '.join(BASELINES)}")
        try:
            made.append(kind(threads) if issubclass(kind, OwnTrees) else kind())
        except Rejected as error:
            missing.append(str(error))
    return made, missing


def load_baseline(path: Path) -> Baseline:
    """The baseline that `save` wrote to this file.

    Raises:
        Rejected: when the file is not one, or needs LightGBM and that is not installed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        made = BASELINES[content["name"]]()
        made.symbols = tuple(content["symbols"])
        made.restore(content["state"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Rejected(f"the baseline in {path} cannot be read ({error}); fit it again") from error
    return made
