"""The exchange's archive: one zip per symbol, dataset and day, as Binance publishes them."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from resources.datasets import INTERVALS, midnight
from streamforge_assets.simulator.damage import damaged
from streamforge_assets.simulator.faults import DataFault
from streamforge_assets.simulator.history import MarketHistory, write_atomically
from streamforge_assets.simulator.instruments import Instrument

MICROSECONDS_FROM = date(2025, 1, 1)
"""First day whose spot archive files count time in microseconds."""

_PATH = re.compile(
    r"/data/spot/daily/(?:aggTrades/(?P<trades>[A-Z0-9]+)|klines/(?P<candles>[A-Z0-9]+)/(?P<interval>\w+))/"
    r"(?P<name>(?P<symbol>[A-Z0-9]+)-(?P<kind>\w+)-(?P<day>\d{4}-\d\d-\d\d)\.zip)(?P<checksum>\.CHECKSUM)?"
)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A zip of the archive. `interval` is empty for trades."""

    symbol: str
    interval: str
    day: date

    @property
    def dataset(self) -> str:
        """`trades` or `candles`."""
        return "candles" if self.interval else "trades"

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return f"{self.symbol}-{self.interval or 'aggTrades'}-{self.day}"

    @property
    def path(self) -> str:
        """Path of the zip under the archive's root, with a leading slash."""
        folder = f"klines/{self.symbol}/{self.interval}" if self.interval else f"aggTrades/{self.symbol}"
        return f"/data/spot/daily/{folder}/{self.stem}.zip"


def locate(path: str) -> tuple[ArchiveFile, bool] | None:
    """The file that a URL path names, and whether its checksum is meant. None for any other path."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    folder, interval = found["trades"] or found["candles"], found["interval"] or ""
    try:
        day = date.fromisoformat(found["day"])
    except ValueError:
        return None
    if found["symbol"] != folder or found["kind"] != (interval or "aggTrades"):
        return None
    if interval and interval not in INTERVALS:
        return None
    return ArchiveFile(folder, interval, day), found["checksum"] is not None


class Archive:
    """Makes the archive's files and keeps them on disk. A file is the same bytes each time it is made.

    Args:
        history: the market.
        folder: where the files are kept; None to make them each time.
    """

    def __init__(self, history: MarketHistory, folder: Path | None) -> None:
        self._history = history
        self._folder = folder

    def has(self, file: ArchiveFile) -> bool:
        """Whether the file is published: the symbol was listed and the day has been over for long enough."""
        config = self._history.config
        if file.symbol not in self._history.instruments or file.day < config.listing(file.symbol):
            return False
        return config.current() >= midnight(file.day) + timedelta(days=1 + config.archive_delay)

    def content(self, file: ArchiveFile, faults: Sequence[DataFault] = ()) -> bytes:
        """The zip, wrongly made if there are faults. CPU-heavy the first time."""
        if faults or self._folder is None:
            return self._make(file, faults)
        path = self._kept(file)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            content = self._make(file)
            write_atomically(path, content)
            return content

    def _kept(self, file: ArchiveFile) -> Path:
        # An outage is part of the truth, so the files of a market with another outage are other files.
        outages = "".join(outage.model_dump_json() for outage in self._history.outages)
        listings = sorted(self._history.config.listings.items())
        mark = hashlib.sha256(f"{outages} {listings}".encode()).hexdigest()[:8]
        root = (self._folder or Path()) / "archive" / f"{self._history.config.digest}-{mark}"
        return root / file.path.removeprefix("/")

    def _make(self, file: ArchiveFile, faults: Sequence[DataFault] = ()) -> bytes:
        instrument = self._history.instruments[file.symbol]
        if file.interval:
            table = self._history.candles(file.symbol, file.interval, file.day)
        else:
            table = self._history.trades(file.symbol, file.day)
        for fault in faults:
            table = damaged(table, fault)
        write = candles_csv if file.interval else trades_csv
        return zipped(f"{file.stem}.csv", write(table, instrument, file.day), file.day)


def checksum(content: bytes, name: str) -> bytes:
    """The text of a CHECKSUM file."""
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()


def trades_csv(trades: pa.Table, instrument: Instrument, day: date) -> bytes:
    """The rows of `TRADE.schema` as the archive writes them: no header, eight decimals, True and False."""
    truth = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["False", "True"]))
    maker = truth.take(trades["is_buyer_maker"].cast(pa.int8()).combine_chunks())
    columns: dict[str, Any] = {
        "id": trades["trade_id"],
        "price": _decimals(trades, "price", instrument.price_decimals),
        "quantity": _decimals(trades, "quantity", instrument.quantity_decimals),
        "first": trades["first_trade_id"],
        "last": trades["last_trade_id"],
        "time": _times(trades, "time", day),
        "maker": maker.dictionary_decode(),
        "best": pa.repeat("True", len(trades)),
    }
    return _csv(pa.table(columns))


def candles_csv(candles: pa.Table, instrument: Instrument, day: date) -> bytes:
    """The rows of `CANDLE.schema` as the archive writes them: no header, eight decimals."""
    price, size, quote = instrument.price_decimals, instrument.quantity_decimals, instrument.quote_decimals
    opens = _times(candles, "open_time", day)
    closes = _times(candles, "close_time", day)
    if day >= MICROSECONDS_FROM:
        closes = closes + 999
    columns: dict[str, Any] = {
        "open_time": opens,
        "open": _decimals(candles, "open", price),
        "high": _decimals(candles, "high", price),
        "low": _decimals(candles, "low", price),
        "close": _decimals(candles, "close", price),
        "volume": _decimals(candles, "volume", size),
        "close_time": closes,
        "quote_volume": _decimals(candles, "quote_volume", quote),
        "count": candles["trade_count"],
        "taker_buy_volume": _decimals(candles, "taker_buy_volume", size),
        "taker_buy_quote_volume": _decimals(candles, "taker_buy_quote_volume", quote),
        "ignore": pa.repeat(0, len(candles)),
    }
    return _csv(pa.table(columns))


def zipped(name: str, body: bytes, day: date) -> bytes:
    """A zip of one file, dated the day after `day`: equal bytes for equal arguments."""
    after = day + timedelta(days=1)
    info = zipfile.ZipInfo(name, (after.year, after.month, after.day, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system, info.external_attr = 3, 0o644 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, body, compresslevel=1)
    return buffer.getvalue()


def _csv(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    options = pa_csv.WriteOptions(include_header=False, quoting_style="none")
    pa_csv.write_csv(table, buffer, options)
    return buffer.getvalue()


def scaled(values: NDArray[np.float64], places: int) -> NDArray[np.int64]:
    """Eight-decimal integers of decimals that have at most `places` decimals, exact below 5e8."""
    return np.asarray(np.rint(values * 10.0**places).astype(np.int64) * 10 ** (8 - places))


def _decimals(table: pa.Table, name: str, places: int) -> pa.Array[Any]:
    words = np.zeros((len(table), 2), np.int64)
    words[:, 0] = scaled(table[name].to_numpy(), places)
    return pa.Array.from_buffers(pa.decimal128(20, 8), len(table), [None, pa.py_buffer(words.tobytes())])


def _times(table: pa.Table, name: str, day: date) -> NDArray[np.int64]:
    microseconds = table[name].to_numpy().astype("datetime64[us]").astype(np.int64)
    return np.asarray(microseconds if day >= MICROSECONDS_FROM else microseconds // 1000)
