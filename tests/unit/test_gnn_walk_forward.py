import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.errors import Rejected
from streamforge_assets.gnn.config import HORIZON, GnnConfig
from streamforge_assets.gnn.training import split_rows
from streamforge_assets.gnn.walk_forward import walk_forward


@given(
    bars=st.integers(200, 5000),
    folds=st.integers(1, 8),
    train=st.integers(60, 2000),
    purge=st.integers(0, 30),
    embargo=st.integers(0, 20),
    rolling=st.booleans(),
)
def test_no_test_row_comes_near_a_training_row(bars, folds, train, purge, embargo, rolling):
    if (bars - train) // folds < 1:
        with pytest.raises(Rejected, match="bars make no"):
            list(walk_forward(bars, folds, train=train, purge=purge, embargo=embargo, rolling=rolling))
        return
    made = list(walk_forward(bars, folds, train=train, purge=purge, embargo=embargo, rolling=rolling))
    assert len(made) == folds
    assert made[-1].test.stop == bars
    for fold, following in zip(made, [*made[1:], None], strict=True):
        assert 0 <= fold.train.start < fold.train.stop
        assert fold.test.start - fold.train.stop == purge + embargo
        assert not rolling or fold.test.start - fold.train.start == train
        assert rolling or fold.train.start == 0
        assert following is None or following.test.start == fold.test.stop


@given(
    bars=st.integers(100, 4000),
    lookback=st.integers(1, 16),
    lags=st.integers(1, 5),
    embargo=st.integers(0, 30),
    share=st.floats(0.05, 0.5),
)
def test_no_bar_is_seen_from_training_and_validation(bars, lookback, lags, embargo, share):
    config = GnnConfig(lookback=lookback, embargo=embargo, validation=share)
    try:
        split = split_rows(bars, config, lags)
    except Rejected:
        return
    # A row looks back `context` bars and at the target `HORIZON` bars later.
    last_seen_in_training = split.train.stop - 1 + HORIZON
    first_seen_in_validation = split.validation.start - config.context(lags)
    assert first_seen_in_validation - last_seen_in_training > embargo
    assert split.train.start == config.context(lags)
    assert split.validation.stop == bars - HORIZON
    assert len(split.train) >= 200


def test_the_bars_asked_for_are_enough():
    with pytest.raises(Rejected, match="training needs 2") as refused:
        split_rows(100, GnnConfig(), 1)
    needed = int(str(refused.value).split("needs ")[1].split(" ")[0])
    split_rows(needed, GnnConfig(), 1)
    with pytest.raises(Rejected):
        split_rows(needed - 1, GnnConfig(), 1)
