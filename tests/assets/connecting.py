"""A connector at work on a bus and a store, and the messages that the connector's tests send it."""

import asyncio
import contextlib
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from resources.bus import Message
from resources.datasets import TRADES, Partition, candles
from resources.errors import StreamForgeError, Unavailable
from resources.pages import DayReport, day_message, encode_pages, end_message
from resources.records import CANDLE, TRADE
from streamforge_assets.workers.arango_connector import connect
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.runtime import Reporter

DAY = date(2024, 8, 1)
START = datetime(2024, 8, 1, tzinfo=UTC)
PART = Partition("trades", "BTCUSDT", DAY)
JOB = Job("wf-1", "arango-connector", "arango-connector__1", TRADES, "BTCUSDT", DAY, date(2024, 8, 4), "data", "c")
DEADLINE = 20.0

FIVE = candles("5m")


def row(number: int, *, day: int = 0, **changes) -> dict:
    moment = START + timedelta(days=day, seconds=number)
    return {
        "symbol": "BTCUSDT",
        "trade_id": number,
        "time": int(moment.timestamp() * 1_000_000),
        "price": 1.0 + number,
        "quantity": 2.0,
        "first_trade_id": number,
        "last_trade_id": number,
        "is_buyer_maker": False,
        **changes,
    }


def candle(number: int, **changes) -> dict:
    """The candle of ETHUSDT that opens `number` times five minutes after START."""
    opened = int((START + timedelta(minutes=5 * number)).timestamp() * 1_000_000)
    names = [field.name for field in CANDLE.fields if field.type == pa.float64()]
    times = {"open_time": opened, "close_time": opened + 299_999_000}
    labels = {"symbol": "ETHUSDT", "interval": "5m"}
    return labels | times | {"trade_count": 10} | dict.fromkeys(names, 1.0 + number) | changes


def table(numbers, *, day: int = 0) -> pa.Table:
    return pa.Table.from_pylist([row(number, day=day) for number in numbers], schema=TRADE.schema)


def day_of(number: int) -> Partition:
    return Partition("trades", "BTCUSDT", DAY + timedelta(days=number))


def whole_day(number: int, ids, *, attempt: int = 1, size: int = 1000) -> list[Message]:
    """A day of trades, `size` of them a page, and the loader's word on it."""
    ids = list(ids)
    tables = [table(ids[at : at + size], day=number) for at in range(0, len(ids), size)]
    return _whole(tables, day_of(number), attempt)


def candle_day(number: int, *, size: int = 288) -> list[Message]:
    """A day of candles of ETHUSDT, `size` of them a page, and the loader's word on it."""
    rows = [candle(288 * number + at) for at in range(288)]
    tables = [pa.Table.from_pylist(rows[at : at + size], schema=CANDLE.schema) for at in range(0, 288, size)]
    return _whole(tables, Partition(FIVE.name, "ETHUSDT", DAY + timedelta(days=number)), 1)


def _whole(tables: list[pa.Table], partition: Partition, attempt: int) -> list[Message]:
    pages: list[Message] = []
    for one in tables:
        pages += encode_pages(one, partition, attempt, len(pages))
    return [*pages, day_message(DayReport(source="archive", pages=len(pages)), partition, attempt)]


def end(*, attempt: int = 1) -> Message:
    return end_message(PART, attempt)


@contextlib.asynccontextmanager
async def connecting(ports, job=JOB):
    """A connector at work, and its reporter; cancelled at the end if it is still there."""
    reporter = Reporter(ports.bus, job, ports.meter)
    task = asyncio.ensure_future(connect(job, ports, reporter))
    try:
        yield task, reporter
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, StreamForgeError):
            await task


async def until(condition) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await condition():
            await asyncio.sleep(0.01)


async def stored_ids(ports, *, days: int = 3) -> list[int]:
    rows = await ports.store.read("trades", ["BTCUSDT"], START, START + timedelta(days=days))
    return rows["trade_id"].to_pylist()


async def committed(ports, job=JOB) -> int:
    return (await ports.bus.committed(job.topic, group=job.connector_group)).get(0, 0)


class Failing:
    """A store whose `name` fails some times before it works."""

    def __init__(self, store, name, times):
        self._store, self._name, self.left = store, name, times

    def __getattr__(self, name):
        if name != self._name:
            return getattr(self._store, name)

        async def call(*arguments, **more):
            if self.left:
                self.left -= 1
                raise Unavailable("the store is busy")
            return await getattr(self._store, name)(*arguments, **more)

        return call
