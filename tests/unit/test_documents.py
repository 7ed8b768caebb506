"""Batches of documents: only what failed is tried again, only what is wrong is set aside."""

import asyncio
from collections import Counter

import pytest

from resources.bus import Delivery, Message
from resources.datasets import TRADES
from resources.errors import Rejected, Unavailable
from resources.metrics import RETRIES, Meter
from streamforge_assets.workers.documents import Document, store_writer, write_all
from streamforge_assets.workers.patience import Patience

BUSY = Unavailable("write-write conflict")
WRONG = Rejected("illegal document key")


def document(number: int, price: float = 1.0) -> Document:
    row = {
        "symbol": "BTCUSDT",
        "trade_id": number,
        "time": 1722470400000000 + number,
        "price": price,
        "quantity": 1.0,
        "first_trade_id": number,
        "last_trade_id": number,
        "is_buyer_maker": False,
    }
    return Document(TRADES, row, Delivery("t", 0, number, 0.0, Message(b"")))


def patience(attempts: int = 5) -> Patience:
    return Patience(Meter(), asyncio.Event(), attempts=attempts, first=0.0)


class Server:
    """Takes documents; those in `troubles` meet them, one a call, before they are taken."""

    def __init__(self, troubles):
        self.troubles = {number: list(errors) for number, errors in troubles.items()}
        self.stored = {}
        self.calls = []

    async def write(self, documents):
        self.calls.append([d.row["trade_id"] for d in documents])
        return [self.take(d) for d in documents]

    def take(self, document):
        waiting = self.troubles.get(document.row["trade_id"])
        if waiting:
            return waiting.pop(0)
        self.stored[document.row["trade_id"]] = document.row["price"]
        return None


async def test_only_the_documents_that_met_a_passing_fault_are_sent_again():
    """Sent again as a whole, the others would meet themselves and be taken for data errors."""
    server = Server({3: [BUSY, BUSY], 7: [BUSY]})
    bearing = patience()
    assert await write_all([document(n) for n in range(10)], server.write, bearing) == []
    assert server.calls == [list(range(10)), [3, 7], [3]]
    assert sorted(server.stored) == list(range(10))
    assert bearing.meter.value(RETRIES) == 3


async def test_a_data_error_concerns_its_own_document_and_is_not_tried_again():
    server = Server({2: [WRONG] * 9, 5: [BUSY]})
    wrong = await write_all([document(n) for n in range(6)], server.write, patience())
    assert [(d.row["trade_id"], str(error)) for d, error in wrong] == [(2, "illegal document key")]
    assert server.calls == [list(range(6)), [5]]


async def test_after_the_last_try_the_fault_is_raised_and_the_others_are_written():
    server = Server({1: [BUSY] * 99})
    with pytest.raises(Unavailable, match="conflict"):
        await write_all([document(0), document(1)], server.write, patience(attempts=3))
    assert server.stored == {0: 1.0}
    assert len(server.calls) == 3


async def test_an_older_document_is_not_written_over_its_successor():
    """Tried again after it, the older version of a key would replace the newer one."""
    server = Server({4: [BUSY]})
    await write_all([document(4, price=1.0), document(4, price=2.0)], server.write, patience())
    assert server.stored == {4: 2.0}
    assert server.calls == [[4, 4]]


async def test_a_key_whose_newer_version_is_wrong_keeps_the_older():
    server = Server({})
    outcomes = iter([[BUSY, WRONG], [None]])

    async def write(documents):
        server.calls.append([d.row["price"] for d in documents])
        return next(outcomes)

    wrong = await write_all([document(4, price=1.0), document(4, price=2.0)], write, patience())
    assert [d.row["price"] for d, _ in wrong] == [2.0]
    assert server.calls == [[1.0, 2.0], [1.0]]


async def test_an_answer_that_does_not_tell_of_every_document_is_no_success():
    async def write(documents):
        return [None] * (len(documents) - 1)

    with pytest.raises(ValueError, match="shorter"):
        await write_all([document(0), document(1)], write, patience())


async def test_a_stop_ends_the_waiting():
    server = Server({0: [BUSY] * 99})
    bearing = Patience(Meter(), asyncio.Event(), attempts=99, first=600)
    writing = asyncio.ensure_future(write_all([document(0)], server.write, bearing))
    while not server.calls:
        await asyncio.sleep(0)
    bearing.stop.set()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(writing, 20)


async def test_waits_double_and_a_success_begins_anew(monkeypatch):
    waits = []

    async def wait_for(awaitable, seconds):
        awaitable.close()
        waits.append(seconds)
        raise TimeoutError

    monkeypatch.setattr("asyncio.wait_for", wait_for)
    bearing = Patience(Meter(), asyncio.Event(), attempts=6, first=1.0, longest=4.0)
    for _ in range(5):
        await bearing.bear(BUSY)
    with pytest.raises(Unavailable):
        await bearing.bear(BUSY)
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits, [1, 2, 4, 4, 4], strict=True))
    bearing.succeeded()
    await bearing.bear(BUSY)
    assert waits[-1] <= 1


class RefusingStore:
    """A store that takes or refuses a batch as a whole, as the lake does."""

    def __init__(self, wrong):
        self.wrong = wrong
        self.stored = Counter()

    async def upsert(self, dataset, rows):
        ids = rows["trade_id"].to_pylist()
        if self.wrong & set(ids):
            raise WRONG
        self.stored.update(ids)


async def test_a_batch_that_the_store_refuses_is_halved_down_to_what_is_wrong():
    store = RefusingStore({3, 11})
    documents = [document(n) for n in range(16)]
    outcomes = await store_writer(store)(documents)
    assert [at for at, outcome in enumerate(outcomes) if outcome is not None] == [3, 11]
    assert store.stored == Counter(n for n in range(16) if n not in {3, 11})


async def test_a_value_of_the_wrong_type_is_told_from_the_rows_around_it():
    store = RefusingStore(set())
    documents = [document(0), document(1), document(2)]
    documents[1].row["price"] = "dear"
    outcomes = await store_writer(store)(documents)
    assert [type(outcome) for outcome in outcomes] == [type(None), Rejected, type(None)]
    assert "wrong type" in str(outcomes[1])
