"""The instruments of the experiments: they must see what they look for, or every verdict is worthless."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from resources.datasets import TRADES
from streamforge_assets.workflow.states import Incident, Workflow, new_workflow
from tests.chaos.load import Worker, healing_times
from tests.chaos.proxy import Proxy, Weather
from tests.chaos.stage import Difference, compare
from tests.servers.kafka import free_ports


def rows(ids: list[int], price: float = 1.0) -> pa.Table:
    return pa.table({"trade_id": ids, "price": [price] * len(ids)})


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (rows([1, 2, 3]), Difference(3, 0, 0, 0)),
        (rows([1, 3]), Difference(2, 1, 0, 0)),
        (rows([1, 2, 2, 3]), Difference(4, 0, 1, 0)),
        (rows([1, 2, 3, 4]), Difference(4, 0, 0, 1)),
        (rows([1, 2, 2]), Difference(3, 1, 1, 0)),
        (rows([1, 2, 3], price=2.0), Difference(3, 0, 0, 3)),
        (rows([2, 1, 3]), Difference(3, 0, 0, 2)),
    ],
)
def test_what_is_lost_twice_or_wrong_is_seen(stored: pa.Table, found: Difference) -> None:
    assert compare(stored, rows([1, 2, 3])) == found


def worker(name: str) -> Worker:
    environment = {"TELEMETRY_ID": name, "QUEUE_ID": "wf", "TARGET": name.partition("__")[0]}
    return Worker(None, environment)  # type: ignore[arg-type]


def healed(*incidents: tuple[str, float, float | None]) -> Workflow:
    made = new_workflow(TRADES, "BTCUSDT", date(2024, 8, 1), date(2024, 8, 2), "{symbol}")
    history = tuple(
        Incident(at=datetime.fromtimestamp(at, UTC), worker=name, attempt=1, cause="", healed_in=healed_in)
        for name, at, healed_in in incidents
    )
    return made.moved(history=history)


def test_healing_is_timed_from_the_strike_to_the_first_word_of_the_successor() -> None:
    strikes = [(100.0, worker("loader__1")), (103.0, worker("loader__2")), (104.0, worker("connector__1"))]
    # The second was struck before it spoke, so both are healed by the third.
    known = healed(("loader__1", 101.0, 8.0), ("loader__2", 104.5, 4.5), ("connector__1", 105.0, None))
    assert healing_times(strikes, [known]) == pytest.approx([6.0, 6.0])


async def test_the_proxy_delays_narrows_and_cuts() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    door, behind = free_ports(2)
    weather = Weather()
    async with await asyncio.start_server(echo, "127.0.0.1", behind), Proxy(door, behind, weather) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", door)

        async def there_and_back(data: bytes) -> float:
            began = time.monotonic()
            writer.write(data)
            assert await asyncio.wait_for(reader.readexactly(len(data)), 10) == data
            return time.monotonic() - began

        await there_and_back(b"hello")
        weather.delay = 0.2
        assert await there_and_back(b"hello") >= 0.4
        weather.delay, weather.rate = 0.0, 500_000.0
        assert await there_and_back(bytes(300_000)) >= 0.4
        await proxy.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(10), 10)
        writer.close()
