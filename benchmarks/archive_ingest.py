"""An archive file of a million trades through the whole path, against pyarrow's parser alone."""

from __future__ import annotations

import asyncio
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from benchmarks.result import Result, best_of_interleaved
from resources.datasets import DAY, TRADES, midnight, to_ms
from resources.settings import Settings
from streamforge_assets.workflow.platform import open_platform

SPEED_TARGET = 0.35
MEMORY_TARGET = 500.0
GROWTH_TARGET = 1.15
ROWS = 1_000_000
ROUNDS = 5
SYMBOL = "BTCUSDT"
WHEN = date(2024, 8, 1)


def run() -> list[Result]:
    """Measure rows/s (checksum, bus, store and ledger included) and peak memory for one and two million rows."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        text = write_archive(home / "archive", ROWS)
        homes = iter(range(1000))
        parse, ingest = best_of_interleaved(
            ROUNDS,
            lambda: pyarrow.csv.read_csv(
                pa.BufferReader(text),
                read_options=pyarrow.csv.ReadOptions(use_threads=False, autogenerate_column_names=True),
            ),
            lambda: asyncio.run(collect(home / "archive", home / f"home{next(homes)}")),
        )
        once = _peak_memory(home, ROWS)
        twice = _peak_memory(home, 2 * ROWS)
    ratio = parse / ingest
    return [
        Result(
            "archive_ingest",
            ratio,
            "x",
            SPEED_TARGET,
            f"pyarrow CSV, one thread: {ROWS / parse / 1e6:.2f} M rows/s; ours {ROWS / ingest / 1e6:.2f}",
            ratio >= SPEED_TARGET,
        ),
        Result(
            "archive_memory",
            once,
            "MB above start",
            MEMORY_TARGET,
            f"{ROWS / 1e6:.0f} M trades",
            once <= MEMORY_TARGET,
        ),
        Result(
            "archive_memory_growth",
            twice / once,
            "x",
            GROWTH_TARGET,
            f"{2 * ROWS / 1e6:.0f} M trades ({twice:.0f} MB) against {ROWS / 1e6:.0f} M ({once:.0f} MB)",
            twice / once <= GROWTH_TARGET,
        ),
    ]


async def collect(archive: Path, home: Path) -> None:
    """Collect the one day of `archive` into a fresh home."""
    settings = Settings(
        home=home,
        exchange="binance",
        archive_url=archive.as_uri(),
        rest_url="http://127.0.0.1:9",
        request_attempts=1,
    )
    async with open_platform(settings) as platform:
        outcome = await platform.coordinator.collect(TRADES, SYMBOL, WHEN, WHEN + DAY)
        entries = await platform.store.ledger(TRADES.name, SYMBOL)
        if outcome.failures or not entries or not entries[0].complete:
            raise RuntimeError(f"not complete: {outcome.failures} {entries}")


def write_archive(root: Path, rows: int) -> bytes:
    """Write a day of `rows` trades as the exchange's archive has them; returns the CSV."""
    chance = np.random.default_rng(1)
    ids = np.arange(3_000_000_000, 3_000_000_000 + rows)
    times = to_ms(midnight(WHEN)) + np.sort(chance.integers(0, 86_400_000, rows))
    price = 6_000_000 + np.cumsum(chance.integers(-3, 4, rows))
    quantity = chance.integers(1, 200_000, rows)
    table = pa.table(
        {
            "id": ids,
            "price": _decimal(price, 2),
            "quantity": _decimal(quantity, 5),
            "first": ids,
            "last": ids,
            "time": times,
            "maker": pa.array(np.where(chance.random(rows) < 0.5, "True", "False")),
            "best": pa.array(["True"]).take(pa.array(np.zeros(rows, int))),
        }
    )
    sink = io.BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    pyarrow.csv.write_csv(table, sink, options)
    name = f"{SYMBOL}-aggTrades-{WHEN}"
    folder = root / "data/spot/daily/aggTrades" / SYMBOL
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{name}.csv", sink.getvalue())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")
    return sink.getvalue()


def _decimal(values: np.ndarray[tuple[int], np.dtype[np.int64]], places: int) -> pa.Array:
    whole = pa.array(values // 10**places).cast(pa.string())
    part = pa.compute.utf8_lpad(pa.array(values % 10**places).cast(pa.string()), places, padding="0")
    return pa.compute.binary_join_element_wise(
        whole, pa.compute.binary_join_element_wise(part, "0" * (8 - places), ""), "."
    )


def _peak_memory(home: Path, rows: int) -> float:
    """MB that collecting needs at its peak above what the process holds before, in a process of its own."""
    archive = home / f"archive{rows}"
    write_archive(archive, rows)
    command = [sys.executable, "-m", "benchmarks.archive_ingest", str(archive), str(home / f"memory{rows}")]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _report_memory(archive: Path, home: Path) -> None:
    asyncio.run(_warm(home))
    Path("/proc/self/clear_refs").write_text("5")  # the peak that was inherited or reached so far is forgotten
    before = _peak()
    asyncio.run(collect(archive, home / "measured"))
    print((_peak() - before) / 1024)


def _peak() -> int:
    """The most memory that was resident, in kB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


async def _warm(home: Path) -> None:
    async with open_platform(Settings(home=home / "warm", exchange="binance")):
        pass


if __name__ == "__main__":
    _report_memory(Path(sys.argv[1]), Path(sys.argv[2]))
