"""Features of a day: causal, masked where nothing was traded, equal alone and in a backfill."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.datasets import DAY, midnight, to_us
from resources.errors import Rejected
from streamforge_assets.market.features import (
    CLIP,
    NAMES,
    WARM_UP_DAYS,
    Bars,
    day_features,
    ewma_volatility,
    log_returns,
)
from streamforge_assets.modelling.panels import features_of_day

PER_DAY = 288
STEP = 300_000_000
FIRST = date(2024, 8, 1)


def bars(days: int = 3, symbols: int = 2, seed: int = 1) -> Bars:
    random = np.random.default_rng(seed)
    shape = (days * PER_DAY, symbols)
    volume = np.exp(random.normal(8, 1, shape))
    return Bars(
        symbols=tuple(f"S{number}USDT" for number in range(symbols)),
        times=to_us(midnight(FIRST)) + np.arange(shape[0]) * STEP,
        step=STEP,
        close=100 * np.exp(np.cumsum(random.normal(0, 0.001, shape), axis=0)),
        quote_volume=volume,
        taker_buy_quote_volume=volume * random.random(shape),
        trade_count=random.integers(1, 200, shape).astype(float),
    )


def test_a_return_is_close_to_close_and_absent_around_a_bar_without_trades():
    close = np.array([[100.0], [101.0], [np.nan], [103.0], [104.0]])
    returns = log_returns(close)
    assert np.isnan(returns[[0, 2, 3], 0]).all()
    assert returns[1, 0] == np.log(101.0) - np.log(100.0)
    assert returns[4, 0] == np.log(104.0) - np.log(103.0)


def test_volatility_is_the_weighted_mean_of_squares_up_to_the_bar():
    returns = np.random.default_rng(2).normal(0, 0.01, (300, 1))
    returns[[7, 90], 0] = np.nan
    found = ewma_volatility(returns, half_life=20)
    there = ~np.isnan(returns[:, 0])
    for bar in (5, 8, 120, 299):
        age = bar - np.arange(bar + 1)
        weight = 0.5 ** (age / 20) * there[: bar + 1]
        expected = np.sqrt(np.nansum(weight * returns[: bar + 1, 0] ** 2) / weight.sum())
        assert found[bar, 0] == pytest.approx(expected, rel=1e-9)


def test_the_first_feature_is_the_return_over_the_volatility_known_before_it():
    made = bars()
    panel = day_features(made, 2 * PER_DAY)
    sigma = ewma_volatility(log_returns(made.close))
    expected = np.clip(panel.returns / sigma[2 * PER_DAY - 1 : -1], -CLIP, CLIP)
    np.testing.assert_allclose(panel.features[:, :, 0], expected, rtol=1e-6)
    assert panel.names == NAMES


@given(st.integers(0, PER_DAY - 2), st.sampled_from(["close", "quote_volume", "trade_count", "nothing traded"]))
def test_nothing_after_the_end_of_a_bar_changes_what_is_known_at_its_end(bar, what):
    made = bars()
    before = day_features(made, 2 * PER_DAY)
    later = np.s_[2 * PER_DAY + bar + 1 :]
    for name in ("close", "quote_volume", "taker_buy_quote_volume", "trade_count"):
        if what == "nothing traded":
            getattr(made, name)[later] = np.nan
        elif what == name:
            getattr(made, name)[later] *= 1.7
    after = day_features(made, 2 * PER_DAY)
    for name in ("returns", "sigma", "mask", "features"):
        assert np.array_equal(getattr(before, name)[: bar + 1], getattr(after, name)[: bar + 1]), name
    assert not np.array_equal(before.features[bar + 1 :], after.features[bar + 1 :])


def test_a_bar_without_trades_is_masked_and_so_is_the_next():
    made = bars()
    quiet = 2 * PER_DAY + 50
    for name in ("close", "quote_volume", "taker_buy_quote_volume", "trade_count"):
        getattr(made, name)[quiet, 1] = np.nan
    panel = day_features(made, 2 * PER_DAY)
    assert np.flatnonzero(~panel.mask[:, 1]).tolist() == [50, 51]
    assert panel.mask[:, 0].all()
    assert (panel.features[[50, 51], 1] == 0).all()
    assert np.isfinite(panel.features).all()


def test_a_busy_hour_is_not_a_busy_market():
    made = bars(days=8)
    season = np.exp(np.cos(2 * np.pi * np.arange(PER_DAY) / PER_DAY))
    busy = Bars(**{**vars(made), "quote_volume": made.quote_volume * np.tile(season, 8)[:, None]})
    at = NAMES.index("log_volume_z")
    plain, seasonal = (day_features(item, 7 * PER_DAY).features[:, 0, at] for item in (made, busy))
    np.testing.assert_allclose(plain, seasonal, atol=1e-4)


def test_the_first_day_of_all_is_masked_because_nothing_is_warm():
    panel = day_features(bars(days=1), 0)
    assert not panel.mask.any()


def test_a_day_is_the_same_alone_and_in_a_backfill():
    long = bars(days=WARM_UP_DAYS + 6)
    day = FIRST + (WARM_UP_DAYS + 3) * DAY
    window = slice(3 * PER_DAY, (WARM_UP_DAYS + 4) * PER_DAY)
    arrays = {name: value[window] for name, value in vars(long).items() if isinstance(value, np.ndarray)}
    alone = Bars(symbols=long.symbols, step=STEP, **arrays)
    assert features_of_day(long, day).digest == features_of_day(alone, day).digest


def test_a_day_without_any_candle_is_refused_by_name():
    made = bars()
    made.close[-PER_DAY:] = np.nan
    with pytest.raises(Rejected, match="no candle of 2024-08-03 is stored"):
        features_of_day(made, FIRST + 2 * DAY)


def test_a_symbol_whose_price_never_moves_is_masked():
    made = bars()
    made.close[:, 1] = 42.0
    panel = day_features(made, 2 * PER_DAY)
    assert not panel.mask[:, 1].any()
    assert panel.mask[:, 0].all()
