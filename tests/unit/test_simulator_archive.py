"""The archive's files: the same bytes each time, and Binance's format."""

import csv
import hashlib
import io
import zipfile
from datetime import UTC, date, datetime

import pytest

from streamforge_assets.simulator.archive import Archive, ArchiveFile, checksum, locate
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.history import MarketHistory

CONFIG = SimulatorConfig(symbols=2, seed=5, trades_scale=0.05, now=datetime(2024, 1, 3, 12, tzinfo=UTC))
TRADES = ArchiveFile("ETHUSDT", "", date(2024, 1, 2))
CANDLES = ArchiveFile("ETHUSDT", "5m", date(2024, 1, 2))


def rows(content: bytes) -> list[list[str]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (name,) = archive.namelist()
        return list(csv.reader(io.StringIO(archive.read(name).decode())))


@pytest.mark.parametrize("file", [TRADES, CANDLES])
def test_a_file_is_the_same_bytes_each_time(tmp_path, file):
    kept = Archive(MarketHistory(CONFIG, tmp_path), tmp_path)
    first = kept.content(file)
    assert kept.content(file) == first
    assert Archive(MarketHistory(CONFIG), None).content(file) == first
    assert not list(tmp_path.rglob("*.part"))


def test_trades_are_written_as_binance_writes_them():
    history = MarketHistory(CONFIG)
    written = rows(Archive(history, None).content(TRADES))
    table = history.trades("ETHUSDT", TRADES.day).to_pylist()
    assert len(written) == len(table)
    for row, trade in zip(written, table, strict=True):
        assert [int(row[i]) for i in (0, 3, 4)] == [
            trade[k] for k in ("trade_id", "first_trade_id", "last_trade_id")
        ]
        assert (float(row[1]), float(row[2])) == (trade["price"], trade["quantity"])
        assert all(len(text.split(".")[1]) == 8 for text in row[1:3])
        assert int(row[5]) == round(trade["time"].timestamp() * 1000)
        assert (row[6], row[7]) == (str(trade["is_buyer_maker"]), "True")


def test_candles_are_written_as_binance_writes_them():
    history = MarketHistory(CONFIG)
    written = rows(Archive(history, None).content(CANDLES))
    table = history.candles("ETHUSDT", "5m", CANDLES.day).to_pylist()
    names = ["open", "high", "low", "close", "volume", "quote_volume"]
    names += ["taker_buy_volume", "taker_buy_quote_volume"]
    for row, candle in zip(written, table, strict=True):
        assert [float(row[i]) for i in (1, 2, 3, 4, 5, 7, 9, 10)] == [candle[name] for name in names]
        assert int(row[0]) == round(candle["open_time"].timestamp() * 1000)
        assert int(row[6]) == int(row[0]) + 299_999
        assert (int(row[8]), row[11]) == (candle["trade_count"], "0")


def test_times_are_microseconds_from_2025():
    config = CONFIG.model_copy(update={"first_day": date(2024, 12, 31), "now": datetime(2025, 2, 1, tzinfo=UTC)})
    archive = Archive(MarketHistory(config), None)
    old, new = (
        rows(archive.content(ArchiveFile("ETHUSDT", "5m", d))) for d in (date(2024, 12, 31), date(2025, 1, 1))
    )
    assert len(old[0][0]) == 13
    assert len(new[0][0]) == 16
    assert int(new[0][6]) == int(new[0][0]) + 299_999_999


def test_a_file_appears_once_its_day_is_over():
    archive = Archive(MarketHistory(CONFIG), None)
    assert archive.has(TRADES)
    assert not archive.has(ArchiveFile("ETHUSDT", "", date(2024, 1, 3)))
    assert not archive.has(ArchiveFile("ETHUSDT", "", date(2023, 12, 31)))
    assert not archive.has(ArchiveFile("NOPE", "", date(2024, 1, 2)))
    late = Archive(MarketHistory(CONFIG.model_copy(update={"archive_delay": 1})), None)
    assert not late.has(TRADES)


def test_paths_name_files():
    for file in (TRADES, CANDLES):
        assert locate(file.path) == (file, False)
        assert locate(file.path + ".CHECKSUM") == (file, True)
    for wrong in (
        "/data/spot/daily/aggTrades/ETHUSDT/BTCUSDT-aggTrades-2024-01-02.zip",
        "/data/spot/daily/klines/ETHUSDT/5m/ETHUSDT-1m-2024-01-02.zip",
        "/data/spot/daily/klines/ETHUSDT/7m/ETHUSDT-7m-2024-01-02.zip",
        "/data/spot/daily/aggTrades/ETHUSDT/ETHUSDT-aggTrades-2024-13-02.zip",
        "/data/spot/daily/aggTrades/../../x",
    ):
        assert locate(wrong) is None


def test_a_checksum_file_names_the_zip():
    assert checksum(b"x", "a.zip").decode() == f"{hashlib.sha256(b'x').hexdigest()}  a.zip\n"
