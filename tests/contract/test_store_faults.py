"""The store's contract: closed, cancelled, read while written, and killed at any moment, it keeps what it has."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from resources.settings import load_settings
from resources.store import open_store
from resources.store.port import Store
from tests.contract.rows import BTC, put, trades
from tests.contract.stores import entry, held


async def test_closing_twice_is_harmless_and_reopening_finds_everything(overrides: dict[str, Any]) -> None:
    store = open_store(load_settings(**overrides))
    async with store:
        await store.record([entry(await put(store, trades([1])))])
        await store.put_document("c", "k", {"v": 1})
    await store.__aexit__(None, None, None)
    async with open_store(load_settings(**overrides)) as again:
        assert await held(again) == {1: 1.0}
        assert len(await again.ledger()) == 1
        assert await again.document("c", "k") == {"v": 1}


async def test_cancelling_inside_a_call_leaves_old_or_new(store: Store) -> None:
    await put(store, trades(range(2000)))
    old, new = {float(1)}, {float(2)}
    for turn in range(25):
        task = asyncio.create_task(put(store, trades(range(2000), price=2.0), replace=True))
        await asyncio.sleep(turn * 0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert set((await held(store)).values()) in (old, new)
        await put(store, trades(range(2000)), replace=True)


async def test_readers_see_old_or_new_and_never_a_mix(store: Store) -> None:
    await put(store, trades(range(300), price=0.0))
    done = asyncio.Event()

    async def write() -> None:
        for turn in range(1, 25):
            await put(store, trades(range(turn, 300 + turn), price=float(turn)), replace=True)
            if turn % 2:
                await store.upsert("trades", trades(range(turn, 300 + turn), price=float(turn)))
        done.set()

    async def watch() -> int:
        seen = set()
        while not done.is_set():
            table = await store.read("trades", ["BTCUSDT"], BTC.start, BTC.end, ["trade_id", "price"])
            (price,) = set(table["price"].to_pylist())
            assert table["trade_id"].to_pylist() == list(range(int(price), int(price) + 300))
            batches = [batch async for batch in store.scan(BTC, ["price"])]
            assert len({value for batch in batches for value in batch["price"].to_pylist()}) == 1
            seen.add(price)
        return len(seen)

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        watchers = [group.create_task(watch()) for _ in range(2)]
    assert max(task.result() for task in watchers) > 1


WRITER = """
import asyncio, json, sys
from resources.settings import load_settings
from resources.store import open_store
from tests.contract.rows import BTC, put, trades

async def main(overrides, number, mode):
    async with open_store(load_settings(**overrides)) as store:
        print("ready", flush=True)
        if mode == "hang":
            async with store.ingest(BTC, replace=True) as ingest:
                await ingest.append(trades(range(1000, 80_000), price=9.0))
                print("appended", flush=True)
                await asyncio.sleep(60)
        for turn in range(10**9 if mode == "forever" else 12):
            ids = range(number * 1000 + turn * 10, number * 1000 + turn * 10 + 10)
            price = float(turn)
            if mode == "forever":
                await put(store, trades(range(500), price=price), replace=True)
                await store.upsert("trades", trades(range(500), price=price))
            elif turn % 3:
                await store.upsert("trades", trades(ids, price=price))
            else:
                await put(store, trades(ids, price=price))
            await store.put_document("c", f"{number:02}-{turn:02}", {"turn": turn})

asyncio.run(main(json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
"""


def start_writer(overrides: dict[str, Any], number: int, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, json.dumps(overrides, default=str), str(number), mode]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


async def test_writing_processes_lose_nothing_of_each_other(store: Store, overrides: dict[str, Any]) -> None:
    writers = [start_writer(overrides, number, "finite") for number in range(3)]
    codes = [await asyncio.to_thread(writer.wait, 60) for writer in writers]
    assert codes == [0, 0, 0]
    expected = {n * 1000 + t * 10 + i: float(t) for n, t, i in itertools.product(range(3), range(12), range(10))}
    assert await held(store) == expected
    assert len(await store.documents("c")) == 36


async def test_a_writer_killed_before_commit_leaves_the_old_rows(store: Store, overrides: dict[str, Any]) -> None:
    before = await put(store, trades(range(5)))
    writer = start_writer(overrides, 0, "hang")
    try:
        assert writer.stdout is not None
        for word in ("ready\n", "appended\n"):
            assert await asyncio.to_thread(writer.stdout.readline) == word
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
    assert await store.stored(BTC) == before
    await put(store, trades([5]))
    assert await held(store) == dict.fromkeys(range(6), 1.0)


async def test_a_writer_killed_at_any_moment_leaves_whole_commits(store: Store, overrides: dict[str, Any]) -> None:
    await put(store, trades(range(500), price=0.0))
    writers = [start_writer(overrides, 0, "forever") for _ in range(3)]
    try:
        for number, writer in enumerate(writers):
            assert writer.stdout is not None
            assert await asyncio.to_thread(writer.stdout.readline) == "ready\n"
            await asyncio.sleep(0.05 + 0.031 * number)
            writer.send_signal(signal.SIGKILL)
            writer.wait(10)
            # The others go on writing, so a read and a scan see different commits, but each of them a whole one.
            read = await store.read("trades", [BTC.symbol], BTC.start, BTC.end)
            scanned = pa.Table.from_batches([batch async for batch in store.scan(BTC, ["price", "trade_id"])])
            for rows in (read, scanned):
                assert rows["trade_id"].to_pylist() == list(range(500))
                assert len(set(rows["price"].to_pylist())) == 1
        assert len(set((await held(store)).values())) == 1
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(10)
