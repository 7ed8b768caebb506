"""The market's core, pure NumPy: returns with planted lead-lag structure, volatility, volume, trade counts.

    r[t] = mu[t] + sigma[t] * (b * market[t] + g * sector[t] + i * own[t])
    mu[t] = sum over edges of weight * gate(v[t - lag, leader]) * r[t - lag, leader]

The factors and the own shocks are GARCH(1,1) with Student-t(5) innovations. sigma carries the asset's scale,
the season of the day and a persistent state v (common plus own, unit variance), which also drives volume.
One bar is five minutes. Usable without the exchange: `simulate(MarketParameters(n=500), 43_200)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamforge_assets.simulator.network import Floats, Ints, Network, draw_network

BARS = 288
"""Bars in a UTC day."""

_DAY_TAG, _ASSETS_TAG, _PILOT_TAG = 12, 13, 14
_PILOT_DAYS = 80
_ALPHA, _BETA = 0.06, 0.92
_PERSISTENCE_COMMON, _PERSISTENCE_OWN = 0.995, 0.985
_COMMON_SHARE = 0.4
_VOLATILITY_OF_STATE = 0.35
_COUNT_ON_STATE = 0.5
_TAIL = 5.0
_LIMIT = 12.0
SINGLES_SLOTS, SINGLES_SHARE = 3, 0.12


@dataclass(frozen=True)
class MarketParameters:
    """What defines a market. Equal parameters give equal markets.

    Args:
        n: number of assets.
        seed: seed of everything random.
        r2: share of an asset's variance that the exact one-step forecast explains, mean over assets.
        gated: whether edges transmit by the leader's volume state (non-linear) or always (linear).
        null: no structure at all: every weight, own lags included, is zero.
        lags: edges act 1..lags bars later.
        switch_step: bar from which a second, independent network holds; None for never.
        sigma: median volatility of an asset per bar.
        trades: aggregate trades per day of the busiest asset.
        minimum_trades: aggregate trades per day below which no asset falls.
    """

    n: int = 12
    seed: int = 7
    r2: float = 0.05
    gated: bool = True
    null: bool = False
    lags: int = 1
    switch_step: int | None = None
    negative_share: float = 0.25
    mean_degree: float = 2.5
    zipf: float = 1.0
    own_lag: float = -0.04
    sigma: float = 0.0012
    volatility_spread: float = 0.35
    trades: float = 35_000.0
    minimum_trades: float = 1_500.0


@dataclass
class MarketState:
    """What one day hands to the next."""

    common: float
    own: Floats
    factor_variance: Floats
    own_variance: Floats
    returns: Floats
    volume_state: Floats
    log_price: Floats
    trades: Ints
    singles: Ints

    def pack(self) -> Floats:
        """Everything in one vector, exactly (counts stay below 2**53)."""
        parts = [np.array([self.common]), self.own, self.factor_variance, self.own_variance]
        parts += [self.returns.ravel(), self.volume_state.ravel(), self.log_price]
        parts += [self.trades.astype(np.float64), self.singles.astype(np.float64)]
        return np.concatenate(parts)


@dataclass(frozen=True)
class MarketDay:
    """One day of the market: arrays of shape (288, n) unless said otherwise.

    `returns` are log returns per bar, `mu` their exact expectation given the past, `sigma` the scale of the
    shock, `volume_state` v, `log_price` at the end of each bar, `counts` aggregate trades per bar.
    `opening` (n,) is the log price at midnight; `first_trade`, `first_single` (n,) count what came before;
    `singles` (n,) are the single trades of the day.
    """

    returns: Floats
    mu: Floats
    sigma: Floats
    volume_state: Floats
    log_price: Floats
    counts: Ints
    opening: Floats
    first_trade: Ints
    first_single: Ints
    singles: Ints


@dataclass(frozen=True)
class Simulation:
    """A market of T bars and n assets: `returns`, `mu`, `sigma`, `volume_state`, `counts`, all (T, n).

    `networks` holds the network of each regime, the first from bar 0, the second from the switch.
    """

    returns: NDArray[np.floating]
    mu: NDArray[np.floating]
    sigma: NDArray[np.floating]
    volume_state: NDArray[np.floating]
    counts: Ints
    networks: tuple[Network, ...]


class MarketCore:
    """A market's fixed parts (networks, loadings, scales) and the step from one day to the next."""

    def __init__(self, parameters: MarketParameters) -> None:
        self.parameters = parameters
        p, n = parameters, parameters.n
        rng = np.random.default_rng(np.random.SeedSequence([p.seed, _ASSETS_TAG]))
        self.sector = rng.integers(0, max(2, round(n / 5)), n)
        self.sectors = int(self.sector.max()) + 1
        market, sector = rng.uniform(0.2, 0.4, n), rng.uniform(0.05, 0.2, n)
        self.loadings = np.sqrt(np.stack([market, sector, 1 - market - sector]))
        spread = rng.standard_normal(n) * p.volatility_spread
        self.scale = p.sigma * np.exp(np.clip(spread, -0.8, 0.8))
        rank = np.arange(1, n + 1)
        self.trades_per_day = np.maximum(p.trades * rank**-0.9, min(p.minimum_trades, p.trades))
        hour = np.arange(BARS) / BARS * 2 * np.pi
        # European and American hours are busy, the Asian night is quiet: about 3 to 1.
        season = np.exp(0.45 * np.cos(hour - 15.0 / 24 * 2 * np.pi) + 0.12 * np.cos(2 * hour))
        self.season = season / season.mean()

    @property
    def networks(self) -> tuple[Network, ...]:
        """The network of each regime, its weights scaled until the forecast's share of variance is `r2`."""
        return _networks(self.parameters)

    def network(self, step: int) -> Network:
        """The network that moves bar `step`."""
        switch = self.parameters.switch_step
        return self.networks[0 if switch is None or step < switch else 1]

    def opening_state(self, log_price: Floats | None = None) -> MarketState:
        """The state before the first day, with variances and volume at their means."""
        n, lags = self.parameters.n, self.parameters.lags
        return MarketState(
            common=0.0,
            own=np.zeros(n),
            factor_variance=np.ones(1 + self.sectors),
            own_variance=np.ones(n),
            returns=np.zeros((lags, n)),
            volume_state=np.zeros((lags, n)),
            log_price=np.zeros(n) if log_price is None else log_price,
            trades=np.zeros(n, dtype=np.int64),
            singles=np.zeros(n, dtype=np.int64),
        )

    def unpack(self, packed: Floats) -> MarketState:
        """The state that `MarketState.pack` wrote."""
        n, lags = self.parameters.n, self.parameters.lags
        sizes = [1, n, 1 + self.sectors, n, lags * n, lags * n, n, n, n]
        parts = [packed[a:b].copy() for a, b in pairwise(np.cumsum([0, *sizes]))]
        return MarketState(
            common=float(parts[0][0]),
            own=parts[1],
            factor_variance=parts[2],
            own_variance=parts[3],
            returns=parts[4].reshape(lags, n),
            volume_state=parts[5].reshape(lags, n),
            log_price=parts[6],
            trades=parts[7].astype(np.int64),
            singles=parts[8].astype(np.int64),
        )

    def day(self, index: int, state: MarketState) -> tuple[MarketDay, MarketState]:
        """Day number `index` (0 is the first) after `state`, and the state that follows it."""
        rng = np.random.default_rng(np.random.SeedSequence([self.parameters.seed, _DAY_TAG, index]))
        shock, sigma, volume, after = self._shocks(rng, state)
        returns, mu = self._returns(shock, volume, state, index * BARS)
        counts, singles = self._counts(rng, volume)
        log_price = state.log_price + np.cumsum(returns, axis=0)
        day = MarketDay(
            returns=returns,
            mu=mu,
            sigma=sigma,
            volume_state=volume,
            log_price=log_price,
            counts=counts,
            opening=state.log_price,
            first_trade=state.trades,
            first_single=state.singles,
            singles=singles,
        )
        lags = self.parameters.lags
        after = replace(
            after,
            returns=np.concatenate([state.returns, returns])[-lags:],
            log_price=log_price[-1],
            trades=state.trades + counts.sum(axis=0),
            singles=state.singles + singles,
        )
        return day, after

    def _shocks(self, rng: np.random.Generator, state: MarketState) -> tuple[Floats, Floats, Floats, MarketState]:
        """Shocks, sigma and volume state of a day (288, n), and the state after it (returns excepted)."""
        n, lags = self.parameters.n, self.parameters.lags
        factors, factor_variance = _garch(rng, state.factor_variance)
        own, own_variance = _garch(rng, state.own_variance)
        common_state = _autoregression(rng, np.array([state.common]), _PERSISTENCE_COMMON)
        own_state = _autoregression(rng, state.own, _PERSISTENCE_OWN)
        volume = np.sqrt(_COMMON_SHARE) * common_state + np.sqrt(1 - _COMMON_SHARE) * own_state
        level = np.exp(_VOLATILITY_OF_STATE * volume - _VOLATILITY_OF_STATE**2)
        sigma = self.scale * np.sqrt(self.season)[:, None] * level
        shock = self.loadings[0] * factors[:, :1]
        shock += self.loadings[1] * factors[:, 1:][:, self.sector]
        shock += self.loadings[2] * own
        shock *= sigma
        after = MarketState(
            common=float(common_state[-1, 0]),
            own=own_state[-1],
            factor_variance=factor_variance,
            own_variance=own_variance,
            returns=np.zeros((lags, n)),
            volume_state=np.concatenate([state.volume_state, volume])[-lags:],
            log_price=state.log_price,
            trades=state.trades,
            singles=state.singles,
        )
        return shock, sigma, volume, after

    def _returns(self, shock: Floats, volume: Floats, state: MarketState, step: int) -> tuple[Floats, Floats]:
        """Returns and their exact forecast (288, n) of the day whose first bar is `step`."""
        if self.parameters.null:
            return shock, np.zeros_like(shock)
        switch = self.parameters.switch_step
        cut = BARS if switch is None else int(np.clip(switch - step, 0, BARS))
        lags = self.parameters.lags
        history = np.concatenate([state.returns, np.zeros_like(shock)])
        volumes = np.concatenate([state.volume_state, volume])
        mu = np.empty_like(shock)
        for first, last in ((0, cut), (cut, BARS)):
            if first < last:
                network = self.network(step + first)
                _recur(network, shock, volumes, history=history, mu=mu, bars=range(first, last))
        return history[lags:], mu

    def _counts(self, rng: np.random.Generator, volume: Floats) -> tuple[Ints, Ints]:
        """Aggregate trades per bar (288, n), and single trades per day beyond one per aggregate, added up."""
        level = np.exp(_COUNT_ON_STATE * volume - _COUNT_ON_STATE**2 / 2)
        counts = rng.poisson(self.trades_per_day / BARS * self.season[:, None] * level).astype(np.int64)
        total = counts.sum(axis=0)
        return counts, total + rng.binomial(SINGLES_SLOTS * total, SINGLES_SHARE)

    def planted(self, regime: int) -> Network:
        """The network of a regime, drawn and calibrated anew; `networks` remembers it."""
        p = self.parameters
        # A weak market must not owe most of its R2 to the own lags.
        own = 0.0 if p.null else np.sign(p.own_lag) * min(abs(p.own_lag), np.sqrt(p.r2 / 10))
        network = draw_network(
            p.n,
            p.seed,
            regime,
            lags=p.lags,
            gated=p.gated,
            negative_share=p.negative_share,
            mean_degree=p.mean_degree,
            zipf=p.zipf,
            own_lag=float(own),
        )
        return self._calibrated(network)

    def _calibrated(self, network: Network) -> Network:
        """Scale the network on a pilot run whose randomness belongs to no day of the market."""
        if self.parameters.null or bool(network.own.all()):
            return network.scaled(0.0) if self.parameters.null else network
        rng = np.random.default_rng(np.random.SeedSequence([self.parameters.seed, _PILOT_TAG]))
        state, pilot = self.opening_state(), []
        for _ in range(_PILOT_DAYS if self.parameters.n <= 50 else _PILOT_DAYS // 4):
            shock, _sigma, volume, state = self._shocks(rng, state)
            pilot.append((shock, volume))
        shocks = np.concatenate([shock for shock, _ in pilot])
        lags = self.parameters.lags
        quiet = np.zeros((lags, self.parameters.n))
        volumes = np.concatenate([quiet, *(volume for _, volume in pilot)])
        factor = 0.1
        for _ in range(8):
            history, mu = np.concatenate([quiet, np.zeros_like(shocks)]), np.empty_like(shocks)
            _recur(network.scaled(factor), shocks, volumes, history=history, mu=mu, bars=range(len(shocks)))
            # The variance of mu, unlike R2 itself, carries no noise from mu's chance correlation with the shocks.
            reached = float(np.mean(np.mean(mu**2, axis=0) / np.mean(history[lags:] ** 2, axis=0)))
            factor *= float(np.sqrt(self.parameters.r2 / reached))
            if abs(reached / self.parameters.r2 - 1) < 0.005:
                break
        return network.scaled(factor)


def simulate(parameters: MarketParameters, steps: int, *, dtype: type[np.floating] = np.float64) -> Simulation:
    """A market of `steps` bars from a quiet start, equal to the first days of the exchange's market.

    Args:
        parameters: the market.
        steps: T, the number of five-minute bars.
        dtype: of the results; float32 halves the memory of a large market.
    """
    core = MarketCore(parameters)
    networks = core.networks
    shape = (steps, parameters.n)
    returns, mu, sigma, volume = (np.empty(shape, dtype) for _ in range(4))
    counts = np.empty(shape, np.int64)
    state = core.opening_state()
    for index in range(-(-steps // BARS)):
        day, state = core.day(index, state)
        rows = slice(index * BARS, min(steps, (index + 1) * BARS))
        size = rows.stop - rows.start
        returns[rows], mu[rows], sigma[rows] = day.returns[:size], day.mu[:size], day.sigma[:size]
        volume[rows], counts[rows] = day.volume_state[:size], day.counts[:size]
    return Simulation(returns, mu, sigma, volume, counts, networks)


def explained_share(returns: NDArray[np.floating], mu: NDArray[np.floating]) -> float:
    """R2 of the forecast `mu` against zero, each asset standardised: the mean over assets. Inputs (T, n)."""
    return float(np.mean(1 - np.mean((returns - mu) ** 2, axis=0) / np.mean(returns**2, axis=0)))


@lru_cache(maxsize=32)
def _networks(parameters: MarketParameters) -> tuple[Network, ...]:
    core = MarketCore(parameters)
    return tuple(core.planted(regime) for regime in range(1 if parameters.switch_step is None else 2))


def _recur(network: Network, shock: Floats, volumes: Floats, *, history: Floats, mu: Floats, bars: range) -> None:
    """Fill `bars` of `mu` and of `history`. The rows of history and volumes begin `lags` bars earlier."""
    lags, n = network.lags, network.n
    source = (lags - network.lag) * n + network.leader
    starts = network.starts
    flat, flat_volumes = history.ravel(), volumes.ravel()
    for begin in bars[::BARS]:
        end = min(begin + BARS, bars.stop)
        at = source + np.arange(begin, end)[:, None] * n
        gate = 2.0 / (1.0 + np.exp(-2.0 * flat_volumes[at]))
        weights = network.weight * np.where(network.gated, gate, 1.0)
        message = np.empty(len(source))
        for t in range(begin, end):
            flat[t * n :].take(source, out=message, mode="clip")
            np.multiply(message, weights[t - begin], out=message)
            np.add.reduceat(message, starts, out=mu[t])
            np.add(mu[t], shock[t], out=history[lags + t])


def _garch(rng: np.random.Generator, variance: Floats) -> tuple[Floats, Floats]:
    """A day of GARCH(1,1) shocks with mean variance 1 (288, k), and the variance after it (k,)."""
    shocks = rng.standard_t(_TAIL, (BARS, len(variance))) * np.sqrt((_TAIL - 2) / _TAIL)
    np.clip(shocks, -_LIMIT, _LIMIT, out=shocks)
    # h[t+1] = w + c[t] h[t] is linear, so a day of it is two cumulative operations instead of a loop.
    growth = np.cumprod(_ALPHA * shocks**2 + _BETA, axis=0)
    path = growth * (variance + (1 - _ALPHA - _BETA) * np.cumsum(1 / growth, axis=0))
    current = np.concatenate([variance[None], path[:-1]])
    return shocks * np.sqrt(current), path[-1]


def _autoregression(rng: np.random.Generator, start: Floats, persistence: float) -> Floats:
    """A day of a unit-variance AR(1) process after `start` (k,), shape (288, k)."""
    steps = rng.standard_normal((BARS, len(start))) * np.sqrt(1 - persistence**2)
    decay = persistence ** np.arange(1, BARS + 1)[:, None]
    return np.asarray(decay * (start + np.cumsum(steps / decay, axis=0)))
