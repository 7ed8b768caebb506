"""Forecasts in a few numbers, as shares of the oracle's."""

from datetime import date

import numpy as np
import pytest

from streamforge_assets.modelling.forecasts import DayForecasts, joined
from streamforge_assets.scoreboard import ORACLE, score_forecasts

DAY = date(2024, 8, 1)


def day(seed: int = 1, bars: int = 400) -> tuple[DayForecasts, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.normal(0, 1e-4, (bars, 5))
    realised = truth + random.normal(0, 1e-3, (bars, 5))
    usable = random.random((bars, 5)) > 0.1
    values = {"half": truth / 2, "zero": np.zeros_like(truth), "noise": random.normal(0, 1e-4, (bars, 5))}
    times = np.arange(bars, dtype=np.int64)
    sigma = np.full((bars, 5), 1e-3)
    return DayForecasts(DAY, DAY, tuple("ABCDE"), times, sigma, realised, usable, values), truth


def test_shares_are_of_the_oracle_and_scale_matters_for_r2_only():
    made, truth = day()
    scores = {score.name: score for score in score_forecasts([made], lambda _day, _symbols: truth)}
    assert scores[ORACLE].ic_share == scores[ORACLE].r2_share == 1
    assert scores["half"].ic_share == pytest.approx(1, abs=1e-9)
    assert scores["half"].r2_share == pytest.approx(0.75, abs=0.25)
    assert scores["zero"].ic == scores["zero"].r2 == 0
    assert abs(scores["noise"].ic) < 0.1


def test_the_oracle_comes_first_and_then_the_best():
    made, truth = day()
    names = [score.name for score in score_forecasts([made], lambda _day, _symbols: truth)]
    assert names[:2] == [ORACLE, "half"]
    without = score_forecasts([made], None)
    assert without[0].name == "half"
    assert without[0].ic_share is None


def test_what_is_not_usable_changes_nothing():
    made, _ = day()
    other, _ = day()
    other.realised[~other.usable] = 99.0
    assert score_forecasts([made], None) == score_forecasts([other], None)


def test_days_are_joined_with_the_forecasts_that_all_have():
    one, _ = day(1)
    two, _ = day(2)
    del two.values["noise"]
    both = joined([one, two])
    assert set(both.values) == {"half", "zero"}
    assert len(both.times) == 800
    assert np.array_equal(both.realised, np.concatenate([one.realised, two.realised]))
