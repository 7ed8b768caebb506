"""Panels: what they refuse, their files, and windows of days with what does not cover them."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from resources.artifacts.local import LocalArtifacts
from resources.datasets import DAY, candles, midnight, to_us
from resources.errors import Rejected
from streamforge_assets.market.features import NAMES
from streamforge_assets.market.panel import Panel, targets
from streamforge_assets.modelling.panels import from_parquet, publish_features, read_window, to_parquet

DATASET = candles("1h")
FIRST = date(2024, 8, 1)


def panel(day: date = FIRST, symbols: tuple[str, ...] = ("AUSDT", "BUSDT"), bars: int = 24) -> Panel:
    random = np.random.default_rng(day.toordinal())
    shape = (bars, len(symbols))
    return Panel(
        symbols=symbols,
        times=to_us(midnight(day)) + np.arange(bars) * 3_600_000_000,
        returns=random.normal(0, 0.01, shape),
        sigma=random.uniform(0.005, 0.02, shape),
        mask=np.ones(shape, bool),
        features=random.normal(0, 1, (*shape, len(NAMES))).astype(np.float32),
        names=NAMES,
    )


def test_a_panel_comes_back_from_its_file_bit_for_bit():
    made = panel()
    assert from_parquet(to_parquet(made)).digest == made.digest


def test_a_target_is_the_next_return_over_the_volatility_known_now():
    made = panel()
    made.mask[5, 0] = False
    y, known = targets(made)
    assert y[3, 1] == made.returns[4, 1] / made.sigma[3, 1]
    assert not known[[4, 5, 23], 0].any()
    assert (y[~known] == 0).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"symbols": ("AUSDT", "AUSDT")}, "AUSDT stands twice"),
        ({"returns": np.zeros((24, 3))}, "returns of the panel has shape"),
        ({"sigma": np.zeros((24, 2))}, "sigma of the panel must be positive"),
        (
            {"returns": np.full((24, 2), np.nan)},
            "returns of AUSDT in bar 2024-08-01T00:00:00.000000 is not a finite",
        ),
        ({"features": np.full((24, 2, len(NAMES)), np.inf, np.float32)}, "features of AUSDT"),
        ({"names": ("volume", *NAMES[1:])}, "begin with return_z"),
    ],
)
def test_a_panel_that_no_model_could_use_is_refused_in_one_sentence(change, sentence):
    with pytest.raises(Rejected, match=sentence):
        replace(panel(), **change)


@pytest.fixture
async def artifacts(tmp_path):
    async with LocalArtifacts(tmp_path) as opened:
        yield opened


async def fill(artifacts, days, symbols=("AUSDT", "BUSDT")):
    for offset in days:
        day = FIRST + offset * DAY
        await publish_features(artifacts, DATASET, day, panel(day, symbols))


async def test_a_window_is_its_days_one_after_the_other(artifacts):
    await fill(artifacts, range(5))
    window = await read_window(artifacts, DATASET, FIRST + 4 * DAY, 3, 0.95)
    parts = [panel(FIRST + offset * DAY) for offset in (2, 3, 4)]
    assert np.array_equal(window.panel.returns, np.concatenate([part.returns for part in parts]))
    assert (np.diff(window.panel.times) == 3_600_000_000).all()
    assert window.warning == ""


async def test_a_symbol_that_does_not_cover_the_window_is_left_out_and_named(artifacts):
    await fill(artifacts, range(2))
    await fill(artifacts, [2], ("AUSDT", "BUSDT", "CUSDT"))
    window = await read_window(artifacts, DATASET, FIRST + 2 * DAY, 3, 0.95)
    assert window.panel.symbols == ("AUSDT", "BUSDT")
    assert window.warning == "left out: CUSDT (33% of its bars)"


async def test_a_missing_day_is_named_and_masked(artifacts):
    await fill(artifacts, [0, 2])
    window = await read_window(artifacts, DATASET, FIRST + 2 * DAY, 3, 0.5)
    assert window.absent_days == (FIRST + DAY,)
    assert not window.panel.mask[24:48].any()
    with pytest.raises(Rejected, match=r"no symbol covers 95% of the 3 days.*the first is 2024-08-02"):
        await read_window(artifacts, DATASET, FIRST + 2 * DAY, 3, 0.95)


async def test_a_window_without_features_says_what_to_do(artifacts):
    with pytest.raises(Rejected, match="materialise analysis/features of these days"):
        await read_window(artifacts, DATASET, FIRST, 3, 0.95)
