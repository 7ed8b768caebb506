"""The real archive, without REST, as a user would run it."""

import asyncio
import os
import subprocess
import sys
from datetime import date

import pytest

from resources.datasets import candles
from resources.settings import Settings
from streamforge_assets.client import StreamForge
from streamforge_assets.market.agreement import compare
from tests.real_data import real_archive
from tests.simulated import stored_rows

pytestmark = [pytest.mark.e2e, pytest.mark.real_data]
START, END = date(2019, 10, 11), date(2019, 10, 13)


def test_real_days_arrive_complete_and_rest_is_missed_once(tmp_path):
    environment = os.environ | {
        "STREAMFORGE_HOME": str(tmp_path / "home"),
        "STREAMFORGE_EXCHANGE": "binance",
        "STREAMFORGE_ARCHIVE_URL": real_archive().as_uri(),
        "STREAMFORGE_REST_URL": "http://127.0.0.1:9",  # nothing listens on the discard port
    }
    command = "backfill trades candles_1m candles_5m --symbols XRPETH --from 2019-10-11 --to 2019-10-13"
    done = subprocess.run(
        [sys.executable, "-m", "streamforge_assets.cli", *command.split()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be reached") == 1
    settings = Settings(home=tmp_path / "home", exchange="binance")
    trades = asyncio.run(stored_rows(settings, "trades", "XRPETH", START, END))
    assert trades.num_rows == 10_063
    for interval, rows, explained in (("1m", 1995, 885), ("5m", 573, 3)):
        stored = asyncio.run(stored_rows(settings, f"candles_{interval}", "XRPETH", START, END))
        result = compare(stored, trades, candles(interval))
        assert (stored.num_rows, result.compared, result.differing) == (rows, rows, 0)
        entries = StreamForge(settings).ledger(f"candles_{interval}", "XRPETH", START, END)
        assert sum(entry.explained_count for entry in entries) == explained
        assert all(entry.complete for entry in entries)
