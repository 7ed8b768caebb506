"""The coordinator heals: a worker that hangs or fails is replaced by one that goes on from what is stored."""

import asyncio
import contextlib
import re
import sqlite3
from datetime import UTC, date, datetime

import pytest

from resources.artifacts import open_artifacts
from resources.bus import Message, open_bus
from resources.datasets import TRADES, Partition
from resources.errors import Rejected, Unavailable
from resources.exchange import open_exchange
from resources.launcher import open_launcher
from resources.messages import CONTROL_TOPIC, EVENTS_TOPIC, decode_control, decode_event
from resources.store import open_store
from resources.store.lake import LakeIngest
from sensors.healing_plan import lost
from sensors.self_healing import end_workflow
from streamforge_assets.workers import loader
from streamforge_assets.workers.registry import in_process
from streamforge_assets.workers.runtime import Ports
from streamforge_assets.workflow import collection, overview
from streamforge_assets.workflow.collection import collect_partitions
from streamforge_assets.workflow.coordinator import Coordinator, WorkflowFailed, WorkflowStopped
from streamforge_assets.workflow.platform import open_platform
from streamforge_assets.workflow.states import WORKFLOWS, Workflow
from tests.simulated import END, START, SYMBOL, assert_same, stored_rows, true_rows


@contextlib.asynccontextmanager
async def coordinator(settings, wrap):
    """A coordinator whose workers pass through `wrap(entrypoint, store)`."""
    async with (
        open_bus(settings) as bus,
        open_store(settings) as store,
        open_exchange(settings) as exchange,
        open_artifacts(settings),
        open_launcher(settings, wrap(in_process(Ports(settings, bus, store, exchange)), store)) as launcher,
    ):
        yield Coordinator(settings, bus, store, launcher), store


def broken(module, times, harm):
    """Wrap an entrypoint: the first `times` starts of `module` come to `harm` instead."""
    starts = []

    def wrap(entrypoint, store):
        async def run(spec):
            if spec.module == module:
                starts.append(spec.telemetry_id)
                if len(starts) <= times:
                    await harm(entrypoint, spec, store)
                    return
            await entrypoint(spec)

        return run

    return wrap, starts


async def never_starts(entrypoint, spec, store):
    await asyncio.Event().wait()


async def falls_silent_half_way(entrypoint, spec, store):
    """The worker is frozen once the first day is stored: no more events, still there."""
    work = asyncio.ensure_future(entrypoint(spec))
    try:
        while not await store.ledger("trades", SYMBOL):
            await asyncio.sleep(0.01)
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    await asyncio.Event().wait()


async def holds_up_the_store(entrypoint, spec, store):
    """The worker is frozen in the middle of a write: the lock is its own until it is gone."""
    with contextlib.closing(sqlite3.connect(store._root / "ledger.sqlite", isolation_level=None)) as ledger:
        ledger.execute("BEGIN IMMEDIATE")
        await asyncio.Event().wait()


async def fails(entrypoint, spec, store):
    raise Unavailable("the disk is on fire")


MODULES = ("loader_api_trades", "arango_connector")


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("harm", [never_starts, falls_silent_half_way, holds_up_the_store])
async def test_a_worker_that_falls_silent_is_replaced_and_the_result_is_the_truth(
    settings, exchange, module, harm, monkeypatch
):
    monkeypatch.setattr(loader, "DAYS_AHEAD", 0)  # else it may be through before it is frozen
    settings = settings.model_copy(update={"silence_limit": 1.0, "start_limit": 1.0})
    wrap, starts = broken(module, 1, harm)
    async with coordinator(settings, wrap) as (made, store):
        outcome = await made.collect(TRADES, SYMBOL, START, END)
        assert outcome.failures == {}
        document = await store.document(WORKFLOWS, outcome.workflow.queue_id)
        assert document["state"] == "finished"
        assert document["attempts"][module] == len(starts) == 2
        assert len(await store.ledger("trades", SYMBOL)) == 3
    rows = await stored_rows(settings, "trades", SYMBOL, START, END)
    assert_same(rows, true_rows(exchange, "trades", SYMBOL, START, END))


async def test_a_worker_whose_disk_does_not_answer_is_replaced_though_its_heart_beats(
    settings, exchange, monkeypatch
):
    settings = settings.model_copy(update={"silence_limit": 3.0, "stall_limit": 2.0})
    commits, commit = [], LakeIngest.commit

    async def hangs_once(self):
        commits.append(1)
        if len(commits) == 2:
            await asyncio.Event().wait()
        return await commit(self)

    monkeypatch.setattr(LakeIngest, "commit", hangs_once)
    async with coordinator(settings, lambda entrypoint, store: entrypoint) as (made, _):
        outcome = await made.collect(TRADES, SYMBOL, START, END)
    (incident,) = outcome.workflow.history
    assert re.search(r"arango-connector__\w+ has stood still for \d s \(commit\)", incident.cause)
    assert incident.healed_in is not None
    rows = await stored_rows(settings, "trades", SYMBOL, START, END)
    assert_same(rows, true_rows(exchange, "trades", SYMBOL, START, END))


async def days_told(settings):
    """How many days connectors have told of."""
    async with open_bus(settings) as bus, bus.replay(EVENTS_TOPIC, {}) as replay:
        said = [decode_event(one.message.value) for one in await replay.receive(limit=5000)]
    return sum(one.partition is not None and one.producer.startswith("arango") for one in said)


async def test_a_loader_that_dies_again_and_again_is_replaced_while_it_brings_days(
    settings, exchange, monkeypatch
):
    async def dies_after_a_day(entrypoint, spec, store):
        told = await days_told(settings)
        work = asyncio.ensure_future(entrypoint(spec))
        while await days_told(settings) == told:
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    publish = loader._Pace.publish

    async def with_a_rest(self, message):
        await publish(self, message)
        await asyncio.sleep(2.0)  # in which it dies

    monkeypatch.setattr(loader._Pace, "publish", with_a_rest)
    settings = settings.model_copy(update={"worker_attempts": 2})
    wrap, starts = broken("loader_api_trades", 2, dies_after_a_day)
    async with coordinator(settings, wrap) as (made, _):
        outcome = await made.collect(TRADES, SYMBOL, START, END)
    assert len(outcome.workflow.history) == len(starts) - 1 == 2
    rows = await stored_rows(settings, "trades", SYMBOL, START, END)
    assert_same(rows, true_rows(exchange, "trades", SYMBOL, START, END))


async def test_after_the_last_attempt_the_workflow_fails_with_the_cause(settings, exchange):
    settings = settings.model_copy(update={"start_limit": 0.3, "worker_attempts": 2})
    wrap, starts = broken("arango_connector", 99, never_starts)
    async with coordinator(settings, wrap) as (made, store):
        with pytest.raises(
            WorkflowFailed, match=r"arango-connector failed \(started 2 times\): no event for 0.3 s"
        ):
            await made.collect(TRADES, SYMBOL, date(2024, 8, 1), date(2024, 8, 2))
        documents = await store.documents(WORKFLOWS)
        assert [(d["state"], len(starts)) for d in documents] == [("failed", 2)]
        assert "no event" in documents[0]["message"]


async def test_a_workflow_knows_where_its_events_begin(settings, exchange):
    """Whoever shows it need not read the events of a week, and misses none."""
    async with coordinator(settings, lambda entrypoint, store: entrypoint) as (one, _):
        await one.bus.publish(EVENTS_TOPIC, [Message(b"older", "wf-older")])
        outcome = await one.collect(TRADES, SYMBOL, START, END)
        async with one.bus.replay(EVENTS_TOPIC, outcome.workflow.events_from) as events:
            first = await events.receive()
        said = await overview.events(one.bus, outcome.workflow, limit=1000)
    assert {delivery.message.key for delivery in first} == {outcome.workflow.queue_id}
    assert [event.status for event in said].count("started") == 2
    assert [event.status for event in said].count("finished") == 2


async def test_cancelling_ends_the_workers_and_says_so(settings, exchange):
    wrap, _ = broken("arango_connector", 99, never_starts)
    async with coordinator(settings, wrap) as (made, store):
        work = asyncio.ensure_future(made.collect(TRADES, SYMBOL, START, END))
        while not await store.documents(WORKFLOWS):
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert [d["state"] for d in await store.documents(WORKFLOWS)] == ["cancelled"]
        assert all(state.state != "running" for state in (await made.launcher.states()).values())


async def test_a_coordinator_that_wakes_up_after_it_was_given_up_stops_and_leaves_the_last_word(
    settings, exchange
):
    """Else the loss would be forgotten, and with it that the days are still owed."""
    wrap, _ = broken("arango_connector", 99, never_starts)
    async with coordinator(settings, wrap) as (made, store):
        work = asyncio.ensure_future(made.collect(TRADES, SYMBOL, START, END))
        while not (documents := await store.documents(WORKFLOWS)):
            await asyncio.sleep(0.01)
        given_up = lost(Workflow.model_validate(documents[0]), "it was gone", now=datetime.now(UTC))
        await end_workflow(store, made.bus, given_up, by="self_healing")
        with pytest.raises(WorkflowStopped, match="stopped by self_healing"):
            await work
        (document,) = await store.documents(WORKFLOWS)
        assert Workflow.model_validate(document) == given_up
        assert all(state.state != "running" for state in (await made.launcher.states()).values())


async def test_the_end_is_told_to_workers_of_whom_nobody_knows(settings, exchange):
    """One that hung before its first message and wakes up later would make the deleted topic anew."""
    async with coordinator(settings, lambda entrypoint, store: entrypoint) as (made, _):
        outcome = await made.collect(TRADES, SYMBOL, START, END)
        async with made.bus.replay(CONTROL_TOPIC, {}) as replay:
            told = [decode_control(one.message.value) for one in await replay.receive()]
        assert [(one.command, one.target, one.telemetry_id) for one in told if one.command == "stop"] == [
            ("stop", "arango-connector", ""),
            ("stop", "loader-producer", ""),
        ]
        assert {one.queue_id for one in told} == {outcome.workflow.queue_id}
        assert outcome.workflow.data_topic not in await made.bus.topics()


def test_an_unknown_worker_is_refused(settings):
    from resources.launcher.port import WorkerSpec

    with pytest.raises(Rejected, match="no worker called 'nobody'"):
        asyncio.run(in_process(None)(WorkerSpec("nobody", "nobody__1")))


async def test_a_day_that_another_process_rewrote_meanwhile_is_looked_at_again(settings, exchange, monkeypatch):
    """Two overlapping backfills: the other one has committed its rows, and died before its ledger entry."""
    monkeypatch.setattr(collection, "SETTLING", 0.2)
    async with open_platform(settings) as platform:
        collect = platform.coordinator.collect

        async def and_rewrite(*arguments, **more):
            outcome = await collect(*arguments, **more)
            partition = Partition("trades", SYMBOL, START)
            rows = await platform.store.read("trades", [SYMBOL], partition.start, partition.end)
            await platform.store.upsert("trades", rows.slice(0, 1))
            assert await platform.store.ledger("trades", SYMBOL) == []
            return outcome

        platform.coordinator.collect = and_rewrite
        (found,) = await collect_partitions(platform, TRADES, [Partition("trades", SYMBOL, START)])
    assert found.failure == ""
    assert found.entry is not None
    assert found.entry.complete


class AwayBus:
    """A bus that nobody can reach while `reachable` is not set."""

    def __init__(self, bus):
        self._bus = bus
        self.reachable = asyncio.Event()
        self.reachable.set()

    async def publish(self, topic, batch):
        await self.reachable.wait()
        await self._bus.publish(topic, batch)

    async def end_offsets(self, topic):
        await self.reachable.wait()
        return await self._bus.end_offsets(topic)

    def __getattr__(self, name):
        return getattr(self._bus, name)


async def test_workers_are_not_replaced_because_the_bus_was_away(settings, exchange):
    """Their silence says nothing then; replacing all of them would only add to the trouble."""
    settings = settings.model_copy(update={"silence_limit": 2.0})
    async with open_bus(settings) as inner, open_store(settings) as store, open_exchange(settings) as source:
        bus = AwayBus(inner)
        workers = in_process(Ports(settings, bus, store, source))
        async with open_launcher(settings, workers) as launcher:
            work = asyncio.create_task(
                Coordinator(settings, bus, store, launcher).collect(TRADES, SYMBOL, START, END)
            )
            async with asyncio.timeout(30):
                while not await store.ledger("trades", SYMBOL):
                    await asyncio.sleep(0.01)
            bus.reachable.clear()
            await asyncio.sleep(4 * settings.silence_limit)
            assert not work.done()
            bus.reachable.set()
            outcome = await work
    assert outcome.workflow.history == ()
    assert_same(
        await stored_rows(settings, "trades", SYMBOL, START, END),
        true_rows(exchange, "trades", SYMBOL, START, END),
    )
