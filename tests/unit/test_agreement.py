import numpy as np
import pyarrow as pa
import pytest

from resources.datasets import candles
from resources.records import CANDLE
from streamforge_assets.market.agreement import candle_faults, compare, order_faults
from streamforge_assets.market.resampling import resample
from streamforge_assets.market.sparkline import sparkline
from tests.unit.test_resampling import MINUTE, Decimal, trades

FIVE = candles("5m")
TRADES = trades([(i * MINUTE, Decimal(100 + i), Decimal("0.5"), i % 2 == 0) for i in range(20)])
CANDLES = resample(TRADES, FIVE)


def changed(name: str, row: int, value: float) -> pa.Table:
    values = CANDLES[name].to_pylist()
    values[row] = value
    at = CANDLE.schema.get_field_index(name)
    return CANDLES.set_column(at, CANDLE.schema.field(at), pa.array(values, CANDLE.schema.field(at).type))


def test_candles_agree_with_the_trades_they_follow_from():
    assert compare(CANDLES, TRADES, FIVE).differing == 0
    assert compare(CANDLES, TRADES, FIVE).compared == 4


@pytest.mark.parametrize("name", ["open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume"])
def test_one_ulp_is_a_difference(name):
    value = CANDLES[name][2].as_py()
    result = compare(changed(name, 2, np.nextafter(value, np.inf)), TRADES, FIVE)
    assert result.differing == 1
    assert name in result.differences[0]
    assert "2024-08-01T00:10:00" in result.differences[0]


def test_a_missing_and_an_invented_candle_are_differences():
    assert "trades, but no candle" in compare(CANDLES.slice(1), TRADES, FIVE).differences[0]
    assert "a candle, but no trades" in compare(CANDLES, TRADES.slice(5), FIVE).differences[0]


def test_impossible_candles_are_named():
    assert candle_faults(CANDLES) == []
    assert "high is not the highest" in candle_faults(changed("high", 1, 1.0))[0]
    assert "not positive" in " ".join(candle_faults(changed("low", 1, -1.0)))
    assert "takers bought more" in candle_faults(changed("taker_buy_volume", 0, 1e9))[0]


def test_order_faults_name_the_key():
    assert order_faults(np.array([1, 2, 3])) == []
    assert order_faults(np.array([1, 1, 3, 2])) == ["1 stands twice", "2 follows 3"]


def test_a_picture_stays_small_and_an_empty_day_says_so():
    walk = np.cumsum(np.ones(100_000)) + 1e6
    assert len(sparkline(walk, walk)) < 30_000
    assert "data:image/svg+xml;base64," in sparkline(walk, walk)
    assert sparkline(np.empty(0), np.empty(0)) == "_no trades_"
