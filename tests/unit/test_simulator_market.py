"""The simulated market: what is planted, what it looks like, and that it is always the same."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from resources.datasets import candles as candles_dataset
from resources.errors import Rejected
from resources.records import CANDLE, TRADE
from streamforge_assets.market.resampling import resample
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.faults import Outage
from streamforge_assets.simulator.history import MarketHistory
from streamforge_assets.simulator.instruments import instruments
from streamforge_assets.simulator.market import MarketCore, MarketParameters, explained_share, simulate
from streamforge_assets.simulator.truth import Oracle

DAY = date(2024, 1, 1)
SMALL = SimulatorConfig(symbols=3, seed=5, trades_scale=0.1)


@pytest.fixture(scope="module")
def month():
    return simulate(MarketParameters(n=12, seed=3), 8640)


def test_the_oracle_explains_the_share_that_was_asked_for():
    shares = [
        explained_share(s.returns, s.mu)
        for s in (simulate(MarketParameters(n=20, seed=seed), 8640) for seed in (1, 2, 3))
    ]
    assert np.mean(shares) == pytest.approx(0.05, rel=0.15)


@pytest.mark.parametrize("r2", [0.002, 0.01])
def test_a_weak_market_is_as_weak_as_asked(r2):
    market = simulate(MarketParameters(n=20, seed=4, r2=r2), 8640)
    planted = np.mean((market.mu**2).mean(axis=0) / (market.returns**2).mean(axis=0))
    assert planted == pytest.approx(r2, rel=0.2)


def test_a_null_market_has_no_structure():
    market = simulate(MarketParameters(n=10, seed=3, null=True), 2000)
    assert not market.mu.any()
    assert not market.networks[0].weight.any()


def test_the_forecast_is_exactly_what_the_network_transmits(month):
    network = month.networks[0]
    t = 1234
    gate = 2 / (1 + np.exp(-2 * month.volume_state[t - 1]))
    matrix, gated = network.adjacency()[0], network.gates()[0]
    expected = (matrix * np.where(gated, gate, 1.0)) @ month.returns[t - 1]
    np.testing.assert_allclose(month.mu[t], expected, atol=1e-18, rtol=1e-9)


def test_lags_and_days_join_without_a_seam():
    market = simulate(MarketParameters(n=6, seed=3, lags=3, gated=False), 600)
    adjacency = market.networks[0].adjacency()
    for t in (287, 288, 289, 290, 577):
        expected = sum(adjacency[k] @ market.returns[t - 1 - k] for k in range(3))
        np.testing.assert_allclose(market.mu[t], expected, atol=1e-18, rtol=1e-9)


def test_a_switch_replaces_the_network_at_its_bar():
    market = simulate(MarketParameters(n=6, seed=3, gated=False, switch_step=400), 600)
    before, after = (network.adjacency()[0] for network in market.networks)
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(market.mu[399], before @ market.returns[398], atol=1e-18, rtol=1e-9)
    np.testing.assert_allclose(market.mu[400], after @ market.returns[399], atol=1e-18, rtol=1e-9)


def test_it_looks_like_a_market(month):
    z = month.returns / month.returns.std(axis=0)
    assert np.mean(z**4) > 5, "fat tails"
    clustering = [np.corrcoef(np.abs(z[:-1, i]), np.abs(z[1:, i]))[0, 1] for i in range(12)]
    assert np.mean(clustering) > 0.1
    correlation = np.corrcoef(z.T)[np.triu_indices(12, 1)]
    assert 0.15 < correlation.mean() < 0.5
    hours = np.abs(z).mean(axis=1).reshape(-1, 24, 12).mean(axis=(0, 2))
    assert hours.max() > 1.3 * hours.min(), "the day has a season"
    volatility = month.returns.std(axis=0)
    assert volatility.max() > 1.5 * volatility.min()
    follows = np.corrcoef(month.volume_state[:, 0], month.counts[:, 0])[0, 1]
    assert follows > 0.5, "volume shows the state that gates the edges"


def test_volume_is_heavy_tailed_over_symbols():
    counts = simulate(MarketParameters(n=12, seed=7), 30 * 288).counts.sum(axis=0) / 30
    assert counts[0] > 6 * counts[-1]
    assert 8_000 < counts.mean() < 14_000


def test_days_are_the_same_in_any_order(tmp_path):
    wanted = [date(2024, 2, 20), date(2024, 1, 3), date(2024, 2, 3)]
    first = MarketHistory(SMALL, tmp_path)
    there = {day: first.trades("ETHUSDT", day) for day in wanted}
    assert list(tmp_path.glob("states/*/*.npy")), "states are kept"
    for history in (MarketHistory(SMALL, tmp_path), MarketHistory(SMALL)):
        for day in reversed(wanted):
            assert history.trades("ETHUSDT", day).equals(there[day])


def test_a_broken_state_file_is_made_again(tmp_path):
    expected = MarketHistory(SMALL, tmp_path).trades("ETHUSDT", date(2024, 2, 20))
    for file in tmp_path.glob("states/*/*.npy"):
        file.write_bytes(b"half")
    assert MarketHistory(SMALL, tmp_path).trades("ETHUSDT", date(2024, 2, 20)).equals(expected)


def test_the_exchange_trades_the_markets_core():
    history = MarketHistory(SMALL)
    market = simulate(SMALL.parameters, 3 * 288)
    assert np.array_equal(history.bars(date(2024, 1, 3)).returns, market.returns[576:])


def test_ids_are_contiguous_and_times_ascend_over_days():
    history = MarketHistory(SMALL)
    aggregates, singles = 0, 0
    for offset in range(4):
        day = DAY + timedelta(days=offset)
        table = history.trades("BTCUSDT", day)
        assert table.schema.equals(TRADE.schema)
        assert history.first_ids("BTCUSDT", day) == (aggregates, singles)
        ids, firsts, lasts = (table[c].to_numpy() for c in ("trade_id", "first_trade_id", "last_trade_id"))
        assert np.array_equal(ids, aggregates + np.arange(len(ids)))
        assert firsts[0] == singles
        assert np.array_equal(firsts[1:], lasts[:-1] + 1)
        assert set(np.unique(lasts - firsts)) <= {0, 1, 2, 3}
        times = table["time"].to_numpy()
        assert (np.diff(times) >= np.timedelta64(0)).all()
        assert {t.date() for t in (table["time"][0].as_py(), table["time"][-1].as_py())} == {day}
        aggregates, singles = int(ids[-1]) + 1, int(lasts[-1]) + 1


def test_the_last_trade_of_a_bar_has_the_bars_price():
    history = MarketHistory(SMALL)
    instrument, bars = history.instruments["BTCUSDT"], history.bars(DAY)
    candles = history.candles("BTCUSDT", "5m", DAY)
    slots = (candles["open_time"].to_numpy() - np.datetime64(DAY, "us")) // np.timedelta64(300, "s")
    expected = instrument.price * np.exp(bars.log_price[slots, 0])
    np.testing.assert_allclose(candles["close"].to_numpy(), expected, atol=10.0**-instrument.price_decimals)


def test_trades_are_exact_decimals():
    history = MarketHistory(SMALL)
    for symbol, instrument in history.instruments.items():
        table = history.trades(symbol, DAY)
        for name, places in (("price", instrument.price_decimals), ("quantity", instrument.quantity_decimals)):
            values = table[name].to_numpy()
            assert (values > 0).all()
            assert all(float(f"{value:.{places}f}") == value for value in values)


@pytest.mark.parametrize("interval", ["1m", "5m", "1h", "1d"])
def test_candles_follow_from_trades(interval):
    history = MarketHistory(SMALL)
    candles = history.candles("SOLUSDT", interval, DAY)
    assert candles.schema.equals(CANDLE.schema)
    assert candles.equals(resample(history.trades("SOLUSDT", DAY), candles_dataset(interval)))
    if interval == "1m":
        assert 0 < len(candles) < 1440, "quiet minutes have no candle"


def test_a_symbol_has_no_trades_before_its_listing():
    config = SMALL.model_copy(update={"listings": {"SOLUSDT": date(2024, 1, 3)}})
    history = MarketHistory(config)
    assert len(history.trades("SOLUSDT", date(2024, 1, 2))) == 0
    assert history.trades("SOLUSDT", date(2024, 1, 3))["trade_id"][0].as_py() == 0


def test_an_outage_removes_trades_and_ids_go_on():
    start, end = datetime(2024, 1, 2, 10, tzinfo=UTC), datetime(2024, 1, 2, 12, tzinfo=UTC)
    history, undisturbed = MarketHistory(SMALL), MarketHistory(SMALL)
    history.outages = (Outage(start=start, end=end),)
    table = history.trades("BTCUSDT", date(2024, 1, 2))
    hours = {t.hour for t in table["time"].to_pylist()}
    assert hours == set(range(24)) - {10, 11}
    ids = table["trade_id"].to_numpy()
    assert np.array_equal(ids, ids[0] + np.arange(len(ids)))
    following = history.trades("BTCUSDT", date(2024, 1, 3))
    assert following["trade_id"][0].as_py() == ids[-1] + 1
    assert following["first_trade_id"][0].as_py() == table["last_trade_id"][-1].as_py() + 1
    plain = undisturbed.trades("BTCUSDT", date(2024, 1, 3))
    assert following.drop_columns(["trade_id", "first_trade_id", "last_trade_id"]).equals(
        plain.drop_columns(["trade_id", "first_trade_id", "last_trade_id"])
    )
    assert len(history.candles("BTCUSDT", "1h", date(2024, 1, 2))) == 22
    history.outages = ()
    assert history.trades("BTCUSDT", date(2024, 1, 3)).equals(plain)


def test_the_day_of_an_id_is_found():
    history = MarketHistory(SMALL)
    last = date(2024, 1, 6)
    for day in (DAY, date(2024, 1, 4), last):
        table = history.trades("BTCUSDT", day)
        for row in (0, -1):
            assert history.day_of("BTCUSDT", table["trade_id"][row].as_py(), last) == day
    assert history.day_of("BTCUSDT", 10**12, last) == last


def test_what_does_not_exist_is_refused_in_one_sentence():
    history = MarketHistory(SMALL)
    with pytest.raises(Rejected, match="NOPE"):
        history.trades("NOPE", DAY)
    with pytest.raises(Rejected, match="2023-12-31"):
        history.bars(date(2023, 12, 31))
    with pytest.raises(Rejected, match="7m"):
        history.candles("BTCUSDT", "7m", DAY)


def test_every_symbol_has_exact_products():
    listed = instruments(500)
    assert len({i.symbol for i in listed}) == 500
    assert all(i.quote_decimals <= 7 and i.quantity_decimals >= 0 for i in listed)


def test_the_oracle_needs_the_configuration_alone():
    oracle = Oracle(SMALL)
    planted = oracle.planted(DAY)
    network = MarketCore(SMALL.parameters).networks[0]
    assert planted.symbols == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert np.array_equal(planted.adjacency, network.adjacency())
    assert planted.edges.sum() == (~network.own).sum()
    assert not planted.edges.diagonal().any()
    assert oracle.forecast(DAY).shape == oracle.returns(DAY).shape == oracle.volume_state(DAY).shape == (288, 3)
