"""The lake on a real disk: what lies there, what a crash leaves, and a disk that refuses."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resources.errors import Rejected, Unavailable
from resources.records import TIME, TRADE
from resources.store.lake import LakeStore
from resources.store.segments import list_days, parse_name, publishing
from tests.contract.rows import BTC, DAY, NEXT, put, trades


def files(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "trades" / "BTCUSDT").iterdir() if p.name != ".lock")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_a_day_at_rest_is_one_file_that_pyarrow_reads_alone(tmp_path: Path) -> None:
    async with LakeStore(tmp_path) as store:
        await put(store, trades(range(10)))
        await put(store, trades(range(5, 15)))
        await put(store, trades([3]), replace=True)
    (name,) = files(tmp_path)
    assert parse_name(name) is not None
    assert pq.read_table(tmp_path / "trades" / "BTCUSDT" / name, partitioning=None).equals(trades([3]))


async def test_appends_are_compacted_with_logarithmic_work(tmp_path: Path) -> None:
    written = 0
    async with LakeStore(tmp_path) as store:
        seen: set[str] = set()
        for turn in range(200):
            await store.upsert("trades", trades(range(turn * 20, turn * 20 + 20)))
            fresh = set(files(tmp_path)) - seen
            seen |= fresh
            written += sum(parsed[4] for parsed in map(parse_name, fresh) if parsed)
            assert len(files(tmp_path)) <= 18
        stored = await store.stored(BTC)
    assert stored is not None
    assert stored.rows == 4000
    assert written < 4000 * 6


async def test_leftovers_of_a_crash_are_ignored_and_removed(tmp_path: Path) -> None:
    async with LakeStore(tmp_path) as store:
        await put(store, trades([1]))
        folder = tmp_path / "trades" / "BTCUSDT"
        (old,) = files(tmp_path)
        pq.write_table(trades([9]), folder / "2024-08-01.0000000000000001.1rows.parquet")
        pq.write_table(trades([8]), folder / "2024-08-01.0000000000000001.1-1.1rows.parquet")
        (folder / ".dead.tmp").write_bytes(b"PAR1")
        os.utime(folder / ".dead.tmp", (0, 0))
        assert (await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end)).equals(trades([1]))
        await put(store, trades([2]))
        (name,) = files(tmp_path)
        assert name != old


async def test_a_living_writers_temporary_file_stays(tmp_path: Path) -> None:
    async with LakeStore(tmp_path) as store, store.ingest(BTC) as slow:
        await slow.append(trades([1]))
        (temporary,) = files(tmp_path)
        os.utime(tmp_path / "trades" / "BTCUSDT" / temporary, (0, 0))
        await put(store, trades([2]))
        await slow.commit()
        assert (await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end)).equals(trades([1, 2]))
    assert len(files(tmp_path)) == 1


async def test_reading_touches_no_file_outside_the_range(tmp_path: Path) -> None:
    async with LakeStore(tmp_path) as store:
        await put(store, trades([1]))
        other = tmp_path / "trades" / "BTCUSDT" / f"{NEXT}.1722500125456789.1rows.parquet"
        other.write_bytes(b"not parquet at all")
        assert (await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end)).num_rows == 1
        with pytest.raises(Rejected, match="damaged"):
            await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end.replace(day=3))


async def test_a_locked_partition_is_unavailable_after_a_while(tmp_path: Path) -> None:
    async with LakeStore(tmp_path, patience=0.2) as store:
        before = await put(store, trades([1]))
        async with store.ingest(BTC) as ingest:
            await ingest.append(trades([2]))
            with (
                filelock.FileLock(tmp_path / "trades" / "BTCUSDT" / ".lock"),
                pytest.raises(Unavailable, match="another process"),
            ):
                await ingest.commit()
            assert await store.stored(BTC) == before
            assert (await ingest.commit()).rows == 2


def test_a_listing_waits_for_a_publication_but_not_for_ever(tmp_path: Path) -> None:
    with publishing(tmp_path), pytest.raises(Unavailable, match="busy"):
        list_days(tmp_path, DAY, NEXT, patience=0.05)
    assert list_days(tmp_path, DAY, NEXT, patience=0.05) == {}


async def test_a_store_that_is_closed_says_so(tmp_path: Path) -> None:
    store = LakeStore(tmp_path)
    with pytest.raises(Unavailable, match="closed"):
        await store.stored(BTC)
    async with store:
        pass
    with pytest.raises(Unavailable, match="closed"):
        await store.partitions()


def test_making_a_store_touches_nothing(tmp_path: Path) -> None:
    LakeStore(tmp_path / "lake")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("obstacle", ["file", "ledger"])
async def test_a_home_that_cannot_be_used_is_one_sentence(tmp_path: Path, obstacle: str) -> None:
    root = tmp_path / "lake"
    if obstacle == "file":
        root.write_text("in the way")
    else:
        (root / "ledger.sqlite").mkdir(parents=True)
    with pytest.raises(Rejected, match="STREAMFORGE_HOME") as caught:
        await LakeStore(root).__aenter__()
    assert "\n" not in str(caught.value)


async def test_a_read_only_home_is_rejected(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, sys; from pathlib import Path; from resources.store.lake import LakeStore\n"
        "os.geteuid() == 0 and os.setuid(65534)\n"
        "try: asyncio.run(LakeStore(Path(sys.argv[1])).__aenter__())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    tmp_path.chmod(0o555)
    for parent in tmp_path.parents[:-1]:
        if parent.owner() == tmp_path.owner() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    command = [sys.executable, "-c", script, str(tmp_path / "lake")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    tmp_path.chmod(0o755)
    assert "Rejected" in result.stdout, result.stderr
    assert "STREAMFORGE_HOME" in result.stdout


async def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    async with LakeStore(small_disk) as store:
        before = await put(store, trades(range(100)))
        random = np.random.default_rng(1)
        with pytest.raises(Unavailable, match="full"):
            await fill(store, random)
        assert await store.stored(BTC) == before
        assert len(files(small_disk)) == 1
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(b"x" * 4_000_000)
        with pytest.raises(Unavailable, match="full"):
            await store.upsert("trades", trades(range(200)))
        with pytest.raises(Unavailable, match="full"):
            await store.put_document("c", "large", {"text": "x" * 1_000_000})
        assert await store.stored(BTC) == before
        assert (await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end)).equals(trades(range(100)))
        filler.unlink()
        await store.upsert("trades", trades(range(200)))
        await store.put_document("c", "k", {"v": 1})
        assert (await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end)).equals(trades(range(200)))


async def fill(store: LakeStore, random: np.random.Generator) -> None:
    async with store.ingest(BTC, replace=True) as ingest:
        for start in range(100, 10_000_000, 8000):
            await ingest.append(noise(start, random))
        await ingest.commit()


def noise(start: int, random: np.random.Generator, count: int = 8000) -> pa.Table:
    """Trades that do not compress, all in the first second of the day."""
    rows = trades(range(count))
    ids = pa.array(np.arange(start, start + count))
    at = pa.array(np.full(count, int(rows["time"][0].value))).cast(TIME)
    columns = [
        rows["symbol"],
        ids,
        at,
        random.random(count),
        random.random(count),
        ids,
        ids,
        rows["is_buyer_maker"],
    ]
    return pa.Table.from_arrays(
        [pa.chunked_array([c]) if isinstance(c, np.ndarray) else c for c in columns], schema=TRADE.schema
    )


async def test_the_event_loop_stays_awake_while_a_partition_is_sorted(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    longest = 0.0

    async def heartbeat() -> None:
        nonlocal longest
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - started)

    async with LakeStore(tmp_path) as store:
        beat = asyncio.create_task(heartbeat())
        pages = [noise(number * 50_000, random, 50_000) for number in (3, 2, 1, 0)]
        longest = 0.0
        await put(store, *pages)
        beat.cancel()
    assert longest < 0.5


async def test_documents_are_read_while_a_write_waits_for_another_process(tmp_path: Path) -> None:
    async with LakeStore(tmp_path) as store:
        await store.put_document("c", "k", {"turn": 1})
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(store.put_document("c", "k", {"turn": 2}))
            await asyncio.sleep(0.1)
            async with asyncio.timeout(5):
                assert await store.document("c", "k") == {"turn": 1}
            assert not writing.done()
            other.execute("ROLLBACK")
        await writing
        assert await store.document("c", "k") == {"turn": 2}
