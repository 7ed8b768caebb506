"""Every fault that the simulated exchange can make, against a backfill through Dagster, with the truth known.

The result is either complete and exactly the truth, or a failed partition that names the hole.
"""

import asyncio
from datetime import UTC, date, datetime

import pytest

from resources.datasets import Partition
from streamforge_assets.simulator.faults import (
    Ban,
    DoubledTrades,
    DroppedTrades,
    MissingCandles,
    MissingFile,
    Outage,
    RateLimit,
    ReorderedTrades,
    Republished,
    Reset,
    ServerError,
    Slow,
    TruncatedZip,
    WrongChecksum,
)
from tests.simulated import END, START, SYMBOL, assert_same, stored_rows, true_rows

pytestmark = pytest.mark.e2e
DATASETS = ["trades", "candles_5m"]
DAY = date(2024, 8, 2)
REST = "/api/v3/*"


def collect(client, **more):
    return client.backfill(DATASETS, [SYMBOL], start=START, end=END, progress=False, **more)


def assert_truth(client, exchange, datasets=DATASETS, start=START, end=END):
    for dataset in datasets:
        stored = asyncio.run(stored_rows(client.settings, dataset, SYMBOL, start, end))
        assert_same(stored, true_rows(exchange, dataset, SYMBOL, start, end))


MENDED = {
    "429 twice": [RateLimit(where="rest", path=REST, times=2, retry_after=1)],
    "418 once": [Ban(where="rest", path="/api/v3/aggTrades", times=1, retry_after=1)],
    "5xx a few times": [ServerError(times=2)],
    "archive down": [ServerError(where="archive")],
    "cut in the middle of a body": [Reset(where="archive", path="*.zip", times=2, share=0.5)],
    "cut REST answers": [MissingFile(day=DAY), Reset(where="rest", times=2, share=0.5)],
    "slow answers": [Slow(seconds=0.3, times=5)],
    "truncated zip once": [TruncatedZip(day=DAY, times=1)],
    "truncated zip for ever": [TruncatedZip(day=DAY)],
    "wrong checksum for ever": [WrongChecksum(day=DAY)],
    "no archive file": [MissingFile(day=DAY)],
    "no archive at all": [MissingFile()],
    "candles missing in the archive": [MissingCandles(where="archive", day=DAY, rows=20)],
    "trades dropped in the archive": [DroppedTrades(where="archive", day=DAY, rows=40)],
    "first trades dropped in the archive": [DroppedTrades(where="archive", day=DAY, rows=40, position=0)],
    "last trades dropped in the archive": [DroppedTrades(where="archive", day=DAY, rows=40, position=1)],
    "more dropped at the end than REST returns at once": [
        DroppedTrades(where="archive", day=DAY, rows=1500, position=1)
    ],
    "trades doubled in the archive": [DoubledTrades(where="archive", day=DAY, rows=30)],
    "trades doubled everywhere": [DoubledTrades(where="both", day=DAY, rows=30)],
    "trades shuffled in the archive": [ReorderedTrades(where="archive", day=DAY, rows=30)],
    "a file that is published again": [Republished(day=DAY, rows=30)],
}


@pytest.mark.parametrize("faults", MENDED.values(), ids=MENDED.keys())
def test_what_can_be_mended_ends_as_exactly_the_truth(client, exchange, faults):
    for fault in faults:
        exchange.faults.add(fault)
    result = collect(client)
    assert result.failures == {}
    assert_truth(client, exchange)


HOLES = {
    "trades dropped everywhere": (DroppedTrades(where="both", day=DAY, rows=7), "trades", "7 trades are missing"),
    "first trades dropped everywhere": (
        DroppedTrades(where="both", day=DAY, rows=7, position=0),
        "trades",
        "7 trades are missing",
    ),
    "last trades dropped everywhere": (
        DroppedTrades(where="both", day=DAY, rows=7, position=1),
        "trades",
        "7 trades are missing",
    ),
    "candles missing everywhere": (
        MissingCandles(where="both", day=DAY, rows=12),
        "candles_5m",
        "12 candles are missing",
    ),
}


@pytest.mark.parametrize(("fault", "dataset", "sentence"), HOLES.values(), ids=HOLES.keys())
def test_a_hole_that_cannot_be_mended_fails_its_partition_and_is_named(client, exchange, fault, dataset, sentence):
    exchange.faults.add(fault)
    result = collect(client)
    failure = result.failures[Partition(dataset, SYMBOL, DAY)]
    assert sentence in failure
    assert ("id " in failure) == (dataset == "trades")
    other = "trades" if dataset != "trades" else "candles_5m"
    assert_truth(client, exchange, [other])
    stored = asyncio.run(stored_rows(client.settings, dataset, SYMBOL, START, END)).to_pylist()
    truth = true_rows(exchange, dataset, SYMBOL, START, END).to_pylist()
    assert all(row in truth for row in stored), "a row that is not the truth"
    assert len(truth) - len(stored) == fault.rows

    exchange.faults.clear()
    assert collect(client).complete, "once the exchange is whole again the same command completes"
    assert_truth(client, exchange)


def test_an_outage_of_the_exchange_is_explained_not_filled(client, exchange):
    exchange.faults.add(
        Outage(start=datetime(2024, 8, 2, 10, tzinfo=UTC), end=datetime(2024, 8, 2, 12, tzinfo=UTC))
    )
    assert collect(client).failures == {}
    assert_truth(client, exchange)
    entry = client.ledger("candles_5m", SYMBOL, "2024-08-02", "2024-08-03")[0]
    assert entry.explained_count >= 24
    assert "follow each other across it" in entry.explained[0].evidence
    exchange.faults.clear()


def test_candles_alone_are_explained_by_the_exchanges_trades(client, exchange):
    exchange.faults.add(
        Outage(start=datetime(2024, 8, 2, 10, tzinfo=UTC), end=datetime(2024, 8, 2, 12, tzinfo=UTC))
    )
    result = client.backfill(["candles_5m"], [SYMBOL], start=START, end=END, progress=False)
    assert result.failures == {}
    assert sum(entry.explained_count for entry in result.entries) >= 24
    exchange.faults.clear()


def test_when_nothing_answers_every_partition_fails_and_a_later_try_completes(client, exchange):
    exchange.faults.add(ServerError())
    result = client.backfill(["candles_5m"], [SYMBOL], start=START, end=END, progress=False)
    assert len(result.failures) == 3
    exchange.faults.clear()
    assert collect(client).complete
    assert_truth(client, exchange)


def test_accepted_gaps_are_recorded_with_name_and_not_asked_again(client, exchange):
    exchange.faults.add(DroppedTrades(where="both", day=DAY, rows=7))
    result = collect(client, accept_gaps="ada")
    assert result.complete
    entry = client.ledger("trades", SYMBOL, "2024-08-02", "2024-08-03")[0]
    assert entry.accepted_by == "ada"
    assert [(span.reason, span.count) for span in entry.explained] == [("accepted", 7)]
    assert "accepted by ada on" in entry.explained[0].evidence
    exchange.faults.clear()


def test_refresh_loads_what_was_published_again_and_nothing_else(client, exchange):
    exchange.faults.add(Republished(day=DAY, rows=30, times=2))
    collect(client)
    exchange.faults.clear()
    before = {entry.partition: entry.source_checksum for entry in collect(client).entries}
    downloads = dict(exchange.stats.downloads)
    result = collect(client, refresh=True)
    assert result.complete
    again = {
        path
        for path, count in exchange.stats.downloads.items()
        if count > downloads.get(path, 0) and path.endswith(".zip")
    }
    assert again, "the file that was published again is loaded again"
    assert all(str(DAY) in path for path in again), again
    assert any(before[entry.partition] != entry.source_checksum for entry in result.entries)
    assert_truth(client, exchange)


def test_what_is_stored_complete_is_not_fetched_again(client, exchange):
    collect(client)
    downloads, requests = dict(exchange.stats.downloads), exchange.stats.weight
    assert collect(client).complete
    assert dict(exchange.stats.downloads) == downloads
    assert exchange.stats.weight - requests < 100
