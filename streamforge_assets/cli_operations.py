"""The commands of whoever runs the platform: `streamforge workflows ...` and `streamforge dlq ...`."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

from resources.bus import open_bus
from resources.bus.port import Bus
from resources.dead_letters import DeadLetter, dead_letters, dead_topics, replay
from resources.errors import Rejected
from resources.messages import EventMessage
from resources.settings import Settings, load_settings
from resources.store import open_store
from resources.store.port import Store
from streamforge_assets.terminal import console
from streamforge_assets.workflow import overview
from streamforge_assets.workflow.healing import policy_of
from streamforge_assets.workflow.states import Workflow
from streamforge_assets.workflow.takeover import left_alone

SHOWN_BYTES = 400

workflows_app = typer.Typer(no_args_is_help=True, help="Look at workflows, stop them, run them again.")
dlq_app = typer.Typer(no_args_is_help=True, help="Look at messages that were set aside, and send them again.")

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
QueueId = Annotated[str, typer.Argument(metavar="ID", help="queue_id of a workflow, or its end")]
Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="the topic that the messages came from")]

T = TypeVar("T")


@workflows_app.command("list")
def list_workflows(
    state: Annotated[str, typer.Option(help="only those of this state, such as failed")] = "",
    limit: Annotated[int, typer.Option(min=1, help="only so many, the newest")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the workflows, the newest last."""
    settings = load_settings()

    async def read() -> list[Workflow]:
        async with open_store(settings) as store:
            return await overview.workflows(store)

    now = datetime.now(UTC)
    found = _run(read())
    chosen = [one for one in found if state in {"", overview.shown_state(one, now=now)}][-limit:]
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in chosen], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("queue_id", "state", "days", "records", "healed", "updated", "message"):
        table.add_column(name, justify="right" if name in {"days", "records", "healed"} else "left")
    for one in chosen:
        state_now = overview.shown_state(one, now=now)
        numbers = ((one.end - one.start).days, one.records, _healed(one))
        table.add_row(one.queue_id, state_now, *(f"{n:,}" for n in numbers), _moment(one.updated_at), one.message)
    console().print(table)


@workflows_app.command("show")
def show_workflow(
    queue_id: QueueId,
    events: Annotated[int, typer.Option(min=0, help="how many of its newest events")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show one workflow: its state, its workers' incidents, its newest events."""
    settings = load_settings()

    async def read() -> tuple[Workflow, list[EventMessage], list[float]]:
        async with _ports(settings) as (store, bus):
            workflow = await overview.find(store, queue_id)
            failures = overview.failures_in_a_row(await overview.workflows(store), workflow)
            said = await overview.events(bus, workflow, limit=events) if events else []
            return workflow, said, failures

    workflow, said, failures = _run(read())
    if as_json:
        document = workflow.model_dump(mode="json")
        document["events"] = [event.model_dump(mode="json", exclude_none=True) for event in said]
        typer.echo(json.dumps(document, indent=1))
        return
    out = console()
    out.print(_facts(workflow, failures, settings))
    if workflow.history:
        out.print(_incidents(workflow))
    if said:
        out.print(_events(said))


@workflows_app.command("stop")
def stop_workflow(queue_id: QueueId) -> None:
    """Stop a workflow, whoever runs it. What it has stored stays."""
    settings = load_settings()

    async def ask() -> Workflow:
        async with _ports(settings) as (store, bus):
            workflow = await overview.find(store, queue_id)
            if left_alone(workflow, now=datetime.now(UTC)):
                _say(f"the coordinator of {workflow.queue_id} is gone; its workers are told directly")
            return await overview.stop(store, bus, workflow, by=getpass.getuser())

    workflow = _run(ask())
    _say(f"{workflow.queue_id} is {workflow.state}: {workflow.message}")


@dlq_app.command("list")
def list_dead_letters(as_json: AsJson = False) -> None:
    """Show which topics have dead letters, and how many were not sent again yet."""
    settings = load_settings()

    async def read() -> list[dict[str, Any]]:
        async with open_bus(settings) as bus:
            topics = await dead_topics(bus)
            return [{"topic": t.topic, "letters": t.letters, "waiting": t.waiting} for t in topics]

    found = _run(read())
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    elif not found:
        _say("no message was set aside")
    else:
        table = Table(box=None, pad_edge=False)
        for name in ("topic", "letters", "waiting"):
            table.add_column(name, justify="left" if name == "topic" else "right")
        for row in found:
            table.add_row(row["topic"], f"{row['letters']:,}", f"{row['waiting']:,}")
        console().print(table)


@dlq_app.command("show")
def show_dead_letters(
    topic: Topic,
    limit: Annotated[int, typer.Option(min=1, help="only so many, the oldest")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the dead letters of a topic: where each came from, why it is there, how it begins."""
    settings = load_settings()

    async def read() -> list[DeadLetter]:
        async with open_bus(settings) as bus:
            return await dead_letters(bus, topic, limit=limit)

    letters = _run(read())
    if as_json:
        typer.echo(json.dumps([_plain(letter) for letter in letters], indent=1))
        return
    for letter in letters:
        plain = _plain(letter)
        typer.echo(f"{letter.source_topic}[{letter.source_partition}]@{letter.source_offset}: {letter.reason}")
        typer.echo(f"  {plain['set_aside_at']} by {letter.set_aside_by}, key {letter.message.key!r}")
        typer.echo(f"  {plain['value']}")


@dlq_app.command("replay")
def replay_dead_letters(topic: Topic) -> None:
    """Send the dead letters of a topic to it once more, each once."""
    settings = load_settings()

    async def send() -> int:
        async with open_bus(settings) as bus:
            return await replay(bus, topic)

    _say(f"sent {_run(send())} messages to {topic} again")


def retry_range(queue_id: str) -> Workflow:
    """The workflow that is to run again. Raises Rejected while it runs."""
    settings = load_settings()

    async def read() -> Workflow:
        async with open_store(settings) as store:
            return await overview.find(store, queue_id)

    workflow = _run(read())
    if overview.shown_state(workflow, now=datetime.now(UTC)) in {"pending", "running"}:
        raise Rejected(f"{workflow.queue_id} runs; stop it first: streamforge workflows stop {workflow.queue_id}")
    return workflow


def _facts(workflow: Workflow, failures: list[float], settings: Settings) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    starts = ", ".join(f"{module} {number}" for module, number in workflow.attempts.items())
    facts = {
        "queue_id": workflow.queue_id,
        "state": overview.shown_state(workflow, now=datetime.now(UTC)),
        "work": f"{workflow.dataset} of {workflow.symbol}, {workflow.start} to {workflow.end} (exclusive)",
        "records": f"{workflow.records:,}",
        "starts": starts,
        "created": _moment(workflow.created_at),
        "updated": _moment(workflow.updated_at),
        "message": workflow.message,
    }
    if workflow.state == "failed":
        again = policy_of(settings).runs_again_at(failures)
        facts["next"] = (
            f"failed {len(failures)} times in a row: only a person starts it again, with"
            f" streamforge workflows retry {workflow.queue_id}"
            if again is None
            else f"may be started again by itself from {_moment(datetime.fromtimestamp(again, UTC))} on"
        )
    for name, value in facts.items():
        if value:
            table.add_row(name, value)
    return table


def _incidents(workflow: Workflow) -> Table:
    table = Table(title="Workers that had to be replaced", title_justify="left", box=None, pad_edge=False)
    for name in ("at", "worker", "start", "healed in", "cause"):
        table.add_column(name)
    for item in workflow.history:
        healed = f"{item.healed_in:.1f} s" if item.healed_in is not None else ""
        table.add_row(_moment(item.at), item.worker, str(item.attempt), healed, item.cause)
    return table


def _events(said: list[EventMessage]) -> Table:
    table = Table(title="Newest events", title_justify="left", box=None, pad_edge=False)
    for name in ("at", "worker", "status", "records", "message"):
        table.add_column(name, justify="right" if name == "records" else "left")
    for event in said:
        at = _moment(datetime.fromtimestamp(event.timestamp, UTC))
        table.add_row(at, event.producer, event.status, f"{event.records_written:,}", event.message)
    return table


def _plain(letter: DeadLetter) -> dict[str, Any]:
    value = letter.message.value
    shown = value[:SHOWN_BYTES].decode(errors="replace") if value.isascii() else f"{len(value)} bytes, not text"
    return {
        "source_topic": letter.source_topic,
        "source_partition": letter.source_partition,
        "source_offset": letter.source_offset,
        "reason": letter.reason,
        "set_aside_by": letter.set_aside_by,
        "set_aside_at": _moment(datetime.fromtimestamp(letter.set_aside_at, UTC)),
        "key": letter.message.key,
        "headers": dict(letter.message.headers),
        "value": shown,
    }


def _healed(workflow: Workflow) -> int:
    return sum(item.healed_in is not None for item in workflow.history)


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


@contextlib.asynccontextmanager
async def _ports(settings: Settings) -> AsyncIterator[tuple[Store, Bus]]:
    async with open_store(settings) as store, open_bus(settings) as bus:
        yield store, bus


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _say(text: str) -> None:
    typer.echo(text, err=True)
