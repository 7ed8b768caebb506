"""From a panel to its graph: the one entry point of all builders. Pure NumPy.

| method | edges | for |
|---|---|---|
| `robust_sparse_var` (auto) | spike-and-slab posterior of a sparse VAR, GLS, Student-t scores | every panel |
| `sparse_var` (auto without bars) | the same from daily moments alone, Gaussian | adding a day in no time |
| `var` | HC0 t of all slopes of the VAR(L), Benjamini-Hochberg | comparison; many bars, strong signal |
| `cross_correlation` | lagged correlation less common factors, Benjamini-Hochberg | comparison; few bars |

There is one default and no switch between methods by sample size: on simulated markets of 50 to 500 assets,
with 1440 to 8640 bars and 1 % to 5 % of variance explained, the default has the highest F1 of the four in every
case (`python -m benchmarks --only edge_recovery`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from resources.errors import Rejected
from streamforge_assets.graphs.classical import cross_correlation_t, var_t
from streamforge_assets.graphs.graph import AssetGraph, Bools, Ints
from streamforge_assets.graphs.moments import LaggedMoments, lagged_moments
from streamforge_assets.graphs.precision import partial_correlations
from streamforge_assets.graphs.refit import refit
from streamforge_assets.graphs.selection import adjusted, significant, two_sided
from streamforge_assets.graphs.spike_slab import Evidence, Posterior, ascend, chosen, is_own
from streamforge_assets.graphs.working import BarModel, MomentModel
from streamforge_assets.market.panel import Floats, Panel

Method = Literal["auto", "robust_sparse_var", "sparse_var", "var", "cross_correlation"]

LEAST_BARS = 200
WHY_ROBUST = "robust_sparse_var had the highest F1 in every case of benchmarks/edge_recovery.py"
WHY_MOMENTS = "only moments were given; robust_sparse_var needs the bars"
ASKED = "asked for"

START_SWEEPS, MOMENT_SWEEPS, BAR_SWEEPS = (2, 1), (3, 3, 3), 3


@dataclass(frozen=True)
class GraphConfig:
    """How a graph is built.

    Args:
        method: see the module; `auto` takes the best that the input allows.
        lags: L, edges act 1..L bars later.
        false_share: bound on the expected share of false edges (posterior, or Benjamini-Hochberg's q).
        gate: Benjamini-Hochberg level at which at least one candidate must be significant for any to be kept.
        rounds: how often the bars are gone through (`robust_sparse_var`).
        removed_factors: principal components taken out (`cross_correlation`).
        contemporaneous_share: bound on the share of false pairs in the second edge type.
    """

    method: Method = "auto"
    lags: int = 1
    false_share: float = 0.05
    gate: float = 0.01
    rounds: int = 1
    removed_factors: int = 1
    contemporaneous_share: float = 0.01


DEFAULT = GraphConfig()


@dataclass(frozen=True)
class _Fit:
    """What a method found, (N, NL) each: slopes between z; t, p, which are kept and rank of all; its numbers."""

    slope: Floats
    t: Floats
    p: Floats
    kept: Bools
    rank: Floats
    found: dict[str, float]


def build_graph(
    panel: Panel,
    config: GraphConfig = DEFAULT,
    *,
    moments: LaggedMoments | None = None,
    data_hash: str | None = None,
) -> AssetGraph:
    """Build the graph of a panel.

    Weights are slopes in raw log returns, estimated anew for each follower on its chosen leaders alone. An own
    lag is kept where it is significant, else 0; without any structure the graph is empty.

    Args:
        panel: bars of N symbols; masked bars carry no information, whatever their share.
        config: the method and its bounds.
        moments: those of this panel and `config.lags`, if they are at hand; None makes them.
        data_hash: what to write as the graph's; None takes the panel's digest.

    Raises:
        Rejected: for too few bars, a symbol whose price never moves, or nothing usable.
    """
    return build_ranked(panel, config, moments=moments, data_hash=data_hash)[0]


def build_ranked(
    panel: Panel,
    config: GraphConfig = DEFAULT,
    *,
    moments: LaggedMoments | None = None,
    data_hash: str | None = None,
) -> tuple[AssetGraph, Floats]:
    """As `build_graph`, and how strongly every candidate is believed in, `[lag - 1, follower, leader]`, (L, N, N).

    The belief only ranks: the posterior probability, then |t|. Own lags have 0.
    """
    if panel.bars <= config.lags or not panel.mask.any():
        raise Rejected(f"none of the panel's {panel.bars} bars is usable; take more days, or symbols that trade")
    held = moments if moments is not None else lagged_moments(panel, config.lags)
    _check(panel.symbols, held, config)
    method = "robust_sparse_var" if config.method == "auto" else config.method
    model = MomentModel(held)
    if method == "robust_sparse_var":
        fit = _robust(panel, model, config)
    elif method == "var":
        fit = _tested(model, var_t(panel, held), config)
    else:
        fit = _of_moments(model, method, config)
    digest = panel.digest if data_hash is None else data_hash
    why = WHY_ROBUST if config.method == "auto" else ASKED
    graph = _graph(panel.symbols, model, fit, {**asdict(config), "method": method, "why": why}, digest)
    n = len(panel.symbols)
    return graph, fit.rank.reshape(n, config.lags, n).transpose(1, 0, 2)


def build_graph_from_moments(
    symbols: tuple[str, ...], moments: LaggedMoments, config: GraphConfig = DEFAULT, *, data_hash: str = ""
) -> AssetGraph:
    """Build a graph from moments alone, as a sum of days' moments. `auto` is `sparse_var` here.

    Raises:
        Rejected: as `build_graph`; and for a method that needs the bars.
    """
    if config.method in {"robust_sparse_var", "var"}:
        raise Rejected(f"the method {config.method} needs the bars; build from the panel, or take sparse_var")
    _check(symbols, moments, config)
    method = "sparse_var" if config.method == "auto" else config.method
    model = MomentModel(moments)
    fit = _of_moments(model, method, config)
    why = WHY_MOMENTS if config.method == "auto" else ASKED
    return _graph(symbols, model, fit, {**asdict(config), "method": method, "why": why}, data_hash)


def _check(symbols: tuple[str, ...], moments: LaggedMoments, config: GraphConfig) -> None:
    if moments.lags != config.lags or moments.products.shape[1] != len(symbols):
        raise Rejected(
            f"the moments are of {moments.products.shape[1]} symbols and {moments.lags} lags;"
            f" make them of the {len(symbols)} symbols and {config.lags} lags asked for"
        )
    counts = np.diagonal(moments.counts[0])
    if counts.min() < LEAST_BARS:
        at = int(np.argmin(counts))
        raise Rejected(
            f"{symbols[at]} has {int(counts[at])} usable bars, too few for a graph (at least {LEAST_BARS});"
            " take more days or leave it out"
        )
    still = np.nonzero(moments.variance < 1e-12)[0]
    if len(still):
        name, bars = symbols[still[0]], int(counts[still[0]])
        raise Rejected(f"the price of {name} never moves in its {bars} usable bars; leave it out")


def _sparse(model: MomentModel, sweeps: tuple[int, ...]) -> tuple[Evidence, Posterior]:
    """Posterior from moments alone: the precision of the residuals and the slopes in turn."""
    ratio = _raw_ratio(model, standardised=True)
    # Not GLS at once: without slopes the others' residuals hold what leaders did to them, and would pass it on.
    evidence = model.plain()
    posterior = ascend(evidence, ratio, None, sweeps[0])
    for number in sweeps[1:]:
        evidence = model.evidence(posterior.slope)
        posterior = ascend(evidence, ratio, posterior, number)
    return evidence, posterior


def _robust(panel: Panel, model: MomentModel, config: GraphConfig) -> _Fit:
    """Posterior from the bars, begun where the moments' ends."""
    moments, deviation = model.moments, np.sqrt(model.moments.variance)
    _, posterior = _sparse(model, START_SWEEPS)
    lags = moments.lags
    posterior = replace(posterior, slope=posterior.slope * deviation[:, None] / np.tile(deviation, lags))
    bars, ratio = BarModel(panel, moments), _raw_ratio(model, standardised=False)
    for number in range(config.rounds):
        if number:
            model.refresh(posterior.slope * np.tile(deviation, lags) / deviation[:, None])
        precision = model.precision / np.outer(deviation, deviation)
        evidence = bars.evidence(posterior.slope, precision, model.regressors)
        posterior = ascend(evidence, ratio, posterior, BAR_SWEEPS)
    return _settled(evidence, posterior, config)


def _of_moments(model: MomentModel, method: str, config: GraphConfig) -> _Fit:
    if method == "cross_correlation":
        return _tested(model, cross_correlation_t(model.moments, config.removed_factors), config)
    evidence, posterior = _sparse(model, MOMENT_SWEEPS)
    fit = _settled(evidence, posterior, config)
    return replace(fit, slope=_destandardised(model, fit.slope))


def _settled(evidence: Evidence, posterior: Posterior, config: GraphConfig) -> _Fit:
    """The kept edges' slopes and tests; nothing is kept where no candidate passes the gate."""
    kept = chosen(posterior, config.false_share)
    own = is_own(len(kept), kept.shape[1] // len(kept))
    slope, t = refit(evidence, kept)
    p = two_sided(t)
    unsupported = [
        kind for kind in (own, ~own) if kept[kind].any() and not significant(p[kind], config.gate).any()
    ]
    if unsupported:
        kept = kept & ~np.logical_or.reduce(unsupported)
        slope, t = refit(evidence, kept)
        p = two_sided(t)
    expected = float(np.mean(1 - posterior.probability[kept & ~own])) if (kept & ~own).any() else 0.0
    found = {"slab": posterior.slab, "own_share": posterior.own_share, "expected_false_share": expected}
    rank = np.where(own, 0.0, posterior.probability + 1e-9 * np.abs(t))
    return _Fit(slope, t, p, kept, rank, found)


def _tested(model: MomentModel, t: Floats, config: GraphConfig) -> _Fit:
    """Edges by Benjamini-Hochberg on given t; slopes by least squares on the kept ones."""
    own = is_own(len(t), model.moments.lags)
    p, kept = two_sided(t), np.zeros(t.shape, dtype=np.bool_)
    for kind in (own, ~own):
        kept[kind] = significant(p[kind], config.false_share)
    slope, _ = refit(model.plain(), kept)
    return _Fit(_destandardised(model, slope), t, p, kept, np.where(own, 0.0, np.abs(t)), {})


def _destandardised(model: MomentModel, slope: Floats) -> Floats:
    """Slopes between z of unit variance as slopes between z."""
    deviation = np.sqrt(model.moments.variance)
    return np.asarray(slope * deviation[:, None] / np.tile(deviation, model.moments.lags))


def _raw_ratio(model: MomentModel, *, standardised: bool) -> Floats:
    """A slope in the model's units per slope in raw returns, shape (N, NL)."""
    scale = model.moments.scale * (np.sqrt(model.moments.variance) if standardised else 1.0)
    return np.asarray(np.tile(scale, model.moments.lags) / scale[:, None])


def _graph(
    symbols: tuple[str, ...], model: MomentModel, fit: _Fit, parameters: dict[str, object], data_hash: str
) -> AssetGraph:
    n, lags = len(symbols), model.moments.lags
    own = is_own(n, lags)
    raw = np.where(fit.kept, fit.slope / _raw_ratio(model, standardised=False), 0.0)
    p = fit.p
    follower, at = np.nonzero(fit.kept & ~own)
    pairs, partial = _contemporaneous(model, fit, float(str(parameters["contemporaneous_share"])))
    numbers = {"bars": model.moments.bars, "least_usable_bars": int(np.diagonal(model.moments.counts[0]).min())}
    return AssetGraph(
        symbols=symbols,
        leader=(at % n).astype(np.int64),
        follower=follower.astype(np.int64),
        lag=(at // n + 1).astype(np.int64),
        weight=raw[follower, at],
        t=fit.t[follower, at],
        p=p[follower, at],
        q=adjusted(p[follower, at], among=p[~own]),
        own=raw[own].reshape(n, lags).T.copy(),
        contemporaneous=pairs,
        partial_correlation=partial,
        parameters={**parameters, **numbers, **fit.found},
        data_hash=data_hash,
    )


def _contemporaneous(model: MomentModel, fit: _Fit, share: float) -> tuple[Ints, Floats]:
    """Pairs whose residuals are partially correlated in one bar (Benjamini-Hochberg on a robust t)."""
    n = len(model.precision)
    if n < 2:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    moments, deviation = model.moments, np.sqrt(model.moments.variance)
    slope = np.where(fit.kept, fit.slope, 0.0) * np.tile(deviation, moments.lags) / deviation[:, None]
    partial = partial_correlations(model.residual_covariance(slope), model.usable)
    heat = moments.heat[0] / (np.diagonal(moments.counts[0]) * moments.variance * np.mean(moments.variance))
    first, second = np.triu_indices(n, 1)
    rho = partial[first, second]
    bars = np.maximum(moments.counts[0][first, second] - n, 1.0)
    t = rho * np.sqrt(bars / (1 - rho**2) / np.sqrt(heat[first] * heat[second]))
    kept = significant(two_sided(t), share)
    return np.stack([first[kept], second[kept]], axis=1).astype(np.int64), rho[kept]
