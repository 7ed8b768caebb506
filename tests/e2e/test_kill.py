"""Pulling the plug: `kill -9` of the whole process, two backfills at once, Ctrl-C, a full disk."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resources.datasets import parse_dataset
from tests.simulated import CONFIG, END, START, assert_same, environment, stored_rows, true_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
DATASETS = ["trades", "candles_5m"]
SYMBOLS = [instrument.symbol for instrument in CONFIG.instruments]
KILLS = 20


def start_backfill(settings, *arguments: str, end=END) -> subprocess.Popen:
    command = ["backfill", *DATASETS, "--symbols", ",".join(SYMBOLS), "--from", str(START), "--to", str(end)]
    return subprocess.Popen(
        [sys.executable, "-m", "streamforge_assets.cli", *command, *arguments],
        env=os.environ | environment(settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def partitions_stored(settings) -> int:
    return len(list((settings.home / "lake").glob("*/*/*.parquet")))


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def assert_truth(settings, exchange):
    for symbol in SYMBOLS:
        for dataset in DATASETS:
            stored = asyncio.run(stored_rows(settings, dataset, symbol, START, END))
            assert_same(stored, true_rows(exchange, dataset, symbol, START, END))


def test_killed_at_twenty_random_moments_the_same_command_ends_at_the_truth(settings, exchange):
    """Each round lets the backfill come a random way into its work, some rounds a little beyond a commit."""
    chance = random.Random(20)
    for _ in range(KILLS):
        have = partitions_stored(settings)
        process = start_backfill(settings)
        wait_until(lambda process=process: (settings.home / "bus.sqlite").exists() or process.poll() is not None)
        target = have + chance.choice([0, 0, 1, 1, 2])
        wait_until(
            lambda process=process, target=target: (
                partitions_stored(settings) >= target or process.poll() is not None
            )
        )
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        process.wait()
    complete = {
        (entry.partition.symbol, entry.partition.day, entry.dataset)
        for entry in asyncio.run(ledger(settings))
        if entry.complete
    }
    downloads = dict(exchange.stats.downloads)
    last = start_backfill(settings)
    _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said
    assert_truth(settings, exchange)
    again = [path for path, count in exchange.stats.downloads.items() if count > downloads.get(path, 0)]
    for symbol, day, dataset in complete:
        folder = "aggTrades" if parse_dataset(dataset).interval is None else "klines"
        assert not [p for p in again if folder in p and symbol in p and str(day) in p], "fetched a finished part"


async def ledger(settings):
    from resources.store import open_store

    async with open_store(settings) as store:
        return await store.ledger()


def test_two_overlapping_backfills_at_once_do_no_harm(settings, exchange):
    both = [start_backfill(settings), start_backfill(settings)]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert_truth(settings, exchange)


def test_ctrl_c_stops_cleanly_and_the_same_command_resumes(settings, exchange):
    process = start_backfill(settings)
    wait_until(lambda: partitions_stored(settings) >= 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    again = start_backfill(settings)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert_truth(settings, exchange)


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_clear_sentence_and_nothing_stored_is_lost(settings, exchange, small_disk):
    settings = settings.model_copy(update={"home": small_disk / "home"})
    process = start_backfill(settings)
    _, said = process.communicate(timeout=120)
    assert process.returncode in {1, 3}, said
    assert "Traceback" not in said
    assert "space" in said
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    again = start_backfill(settings)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert_truth(settings, exchange)
