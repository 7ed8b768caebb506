"""The sensors `self_healing`, `run_failures` and `run_cancellations` on a real store and bus, without a daemon."""

import asyncio
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from resources.bus import Message, open_bus
from resources.messages import CONTROL_TOPIC, decode_control
from resources.settings import Settings
from resources.store import open_store
from sensors import self_healing as module
from sensors.healing_plan import lost
from sensors.run_failures import run_cancellations, run_failures
from sensors.self_healing import self_healing
from streamforge_assets.assets.catalogue import market_assets
from streamforge_assets.partitions import SYMBOLS, market_asset_key
from streamforge_assets.workflow.states import STOP_REQUESTS
from streamforge_assets.workflow.takeover import LEFT_ALONE
from tests.sensors.made import DAY, SYMBOL, keep, kept, workflow


def ago(seconds):
    return datetime.now(UTC) - timedelta(seconds=seconds)


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        made.add_dynamic_partitions(SYMBOLS.name, [SYMBOL])
        yield made


@pytest.fixture
def heal(settings, instance, monkeypatch):
    monkeypatch.setattr(module, "SECOND_LOOK", 0)

    def tick(settings=settings):
        return self_healing(settings, market_assets(settings))(dg.build_sensor_context(instance=instance))

    return tick


def commands(settings):
    async def work():
        async with open_bus(settings) as bus, bus.replay(CONTROL_TOPIC, {}) as replay:
            return [decode_control(one.message.value) for one in await replay.receive()]

    return asyncio.run(work())


def stop_requests(settings):
    async def work():
        async with open_store(settings) as store:
            return await store.documents(STOP_REQUESTS)

    return asyncio.run(work())


def left(**changes):
    return workflow(**{"state": "running", "updated_at": ago(LEFT_ALONE + 5), "created_at": ago(300), **changes})


def test_a_workflow_left_alone_ends_its_workers_are_told_and_later_its_days_are_asked_for(settings, heal):
    one = left()
    keep(settings, one)
    assert "1 workflows were ended" in heal().skip_message
    ended = kept(settings)[one.queue_id]
    assert (ended.state, ended.history[-1].worker) == ("failed", "coordinator")
    assert {(c.command, c.queue_id) for c in commands(settings)} == {("stop", one.queue_id)}
    assert [wish["by"] for wish in stop_requests(settings)] == ["self_healing"]
    assert "1 wait for their next start" in heal().skip_message, "the policy's wait is not over"
    assert len(commands(settings)) == 2, "once told is enough"
    keep(settings, lost(one, ended.message, now=ago(61)))
    for _ in range(2):
        (request,) = heal().run_requests
        assert request.run_key == f"heal:{one.queue_id}", "Dagster starts a key once"
        assert request.asset_selection == [market_asset_key("trades")]
        assert request.tags["dagster/asset_partition_range_start"] == f"{DAY}|{SYMBOL}"
        assert request.tags["dagster/asset_partition_range_end"] == f"2024-08-03|{SYMBOL}"


def test_a_coordinator_that_shows_a_sign_of_life_after_all_is_left_in_peace(settings, heal, monkeypatch):
    """After a laptop slept, all looks silent at once: a live backfill must not be stopped for that."""
    slept = left()
    keep(settings, slept.moved())
    monkeypatch.setattr(module, "parse_workflows", lambda _: ([slept], []))
    assert "0 workflows were ended" in heal().skip_message
    assert kept(settings)[slept.queue_id].state == "running"
    assert commands(settings) == stop_requests(settings) == []


def test_the_metrics_page_tells_what_was_healed(settings, heal):
    one = lost(left(), "gone", now=ago(100))
    keep(settings, one, workflow(state="running", created_at=ago(80)))
    heal()
    page = (settings.home / "metrics" / "healing.prom").read_text()
    assert 'streamforge_heals_total{target="coordinator"} 1.0' in page
    assert 'streamforge_heal_seconds_total{target="coordinator"} 20' in page
    assert kept(settings)[one.queue_id].history[-1].healed_in == pytest.approx(20, abs=1)


def test_days_that_are_no_partition_any_more_are_not_asked_for(settings, instance, heal):
    keep(settings, lost(left(), "gone", now=ago(61)))
    instance.delete_dynamic_partition(SYMBOLS.name, SYMBOL)
    assert isinstance(heal(), dg.SkipReason)


def test_while_the_bus_is_away_nothing_is_decided_half(settings, heal):
    one = left()
    keep(settings, one)
    away = Settings(home=settings.home, bus="kafka", kafka_bootstrap="127.0.0.1:9", kafka_patience=1)
    assert "nothing listens at 127.0.0.1:9" in heal(away).skip_message
    assert kept(settings)[one.queue_id].state == "running"


def test_a_document_that_cannot_be_read_does_not_stop_the_rest(settings, heal):
    broken, one = workflow(state="nonsense"), left()
    keep(settings, broken, one)

    async def state():
        async with open_store(settings) as store:
            return (await store.document("workflows", one.queue_id))["state"]

    heal()
    assert asyncio.run(state()) == "failed"


def publish(settings, *topics):
    async def work():
        async with open_bus(settings) as bus:
            for topic in topics:
                await bus.publish(topic, [Message(b"page")])

    asyncio.run(work())


def topics(settings):
    async def work():
        async with open_bus(settings) as bus:
            return set(await bus.topics())

    return asyncio.run(work())


def test_what_a_worker_makes_anew_after_its_workflow_is_over_is_removed(settings, heal):
    """A loader that hung before its first message wakes up hours later, and publishes."""
    done, failed = workflow(state="finished", updated_at=ago(600)), workflow(state="failed", updated_at=ago(600))
    live, recent = workflow(state="running", updated_at=ago(1)), workflow(state="cancelled", updated_at=ago(10))
    keep(settings, done, failed, live, recent)
    stay = {one.data_topic for one in (failed, live, recent)} | {"wf-stranger-data", f"{done.data_topic}.dlq"}
    publish(settings, done.data_topic, *stay)
    assert heal().skip_message == "0 workflows were ended, 1 data topics were removed"
    assert topics(settings) == stay
    assert heal().skip_message == "0 workflows were ended"


def test_healing_goes_on_while_topics_cannot_be_removed(settings, heal):
    keep(settings, lost(left(), "gone", now=ago(61)))
    away = Settings(home=settings.home, bus="kafka", kafka_bootstrap="127.0.0.1:9", kafka_patience=1)
    assert len(heal(away).run_requests) == 1


# --- runs that end badly


def ended_run(instance, work, *, status):
    @dg.op
    def step():
        work()

    @dg.job
    def job():
        step()

    result = job.execute_in_process(instance=instance, raise_on_error=False)
    if status == "cancelled":
        run = instance.get_run_by_id(result.run_id)
        return run, dg.DagsterEvent(
            event_type_value=dg.DagsterEventType.RUN_CANCELED.value, job_name="job", message="Run was canceled"
        )
    return instance.get_run_by_id(result.run_id), result.get_run_failure_event()


def begun_run(instance):
    @dg.job
    def job():
        pass

    run = instance.create_run_for_job(job)
    instance.report_engine_event("Started process for run.", run)
    return run


def evaluate(sensor, instance, run, event):
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name, dagster_instance=instance, dagster_run=run, dagster_event=event
    )
    return sensor(context)


def test_a_failed_runs_workflows_end_with_its_cause_and_may_be_healed(settings, instance):
    def work():
        raise dg.Failure(description="the node went away")

    run, event = ended_run(instance, work, status="failed")
    mine = workflow(state="running", run_id=run.run_id)
    done = workflow(state="finished", run_id=run.run_id)
    others = workflow(state="running", run_id="another")
    keep(settings, mine, done, others)
    said = evaluate(run_failures(settings), instance, run, event)
    assert mine.queue_id in said.skip_message
    documents = kept(settings)
    assert documents[mine.queue_id].state == "failed"
    assert documents[mine.queue_id].message == f"the run {run.run_id} failed: the node went away"
    assert documents[mine.queue_id].history[-1].worker == "coordinator"
    assert (documents[done.queue_id].state, documents[others.queue_id].state) == ("finished", "running")
    assert {command.queue_id for command in commands(settings)} == {mine.queue_id}
    (wish,) = stop_requests(settings)
    assert "the node went away" in wish["by"], "a coordinator that still lives keeps the cause too"


def test_the_cause_of_a_run_that_was_found_dead_is_how_its_process_ended(settings, instance):
    """Dagster's own message says only that the run was marked from outside; nobody could act on that."""
    run = begun_run(instance)
    message = f"Run execution process for {run.run_id} was terminated by signal 9 (SIGKILL)."
    instance.report_engine_event(message, run, cls=dg.DagsterInstance)
    event = instance.report_run_failed(run)
    mine = workflow(state="running", run_id=run.run_id)
    keep(settings, mine)
    evaluate(run_failures(settings), instance, run, event)
    assert kept(settings)[mine.queue_id].message == f"the run {run.run_id} failed: {message}"


def test_the_cause_is_kept_also_when_the_silence_was_noticed_first(settings, instance, heal):
    """Both sensors tick every 30 seconds: by chance a person was told that it was silent, and no more."""
    run = begun_run(instance)
    mine, others = left(run_id=run.run_id), left(run_id="another", symbol="ETHUSDT")
    keep(settings, mine, others)
    heal()
    silent = kept(settings)
    assert silent[mine.queue_id].message.startswith("its coordinator was gone: no sign of life")
    event = instance.report_run_failed(run, "out of memory")
    evaluate(run_failures(settings), instance, run, event)
    found = kept(settings)
    cause = f"the run {run.run_id} failed: out of memory"
    assert (found[mine.queue_id].message, found[mine.queue_id].history[-1].cause) == (cause, cause)
    assert found[mine.queue_id].updated_at == silent[mine.queue_id].updated_at, "it failed when it did"
    assert found[others.queue_id] == silent[others.queue_id]


def test_a_run_that_dagster_gives_up_for_a_reason_keeps_the_reason(settings, instance):
    run = begun_run(instance)
    event = instance.report_run_failed(run, "Run timed out due to taking longer than 180 seconds to start.")
    mine = workflow(state="running", run_id=run.run_id)
    keep(settings, mine)
    evaluate(run_failures(settings), instance, run, event)
    assert kept(settings)[mine.queue_id].message.endswith("longer than 180 seconds to start.")


def test_a_cancelled_runs_workflows_are_cancelled_and_not_healed(settings, instance, heal):
    run, event = ended_run(instance, lambda: None, status="cancelled")
    mine = workflow(state="running", run_id=run.run_id)
    keep(settings, mine)
    evaluate(run_cancellations(settings), instance, run, event)
    document = kept(settings)[mine.queue_id]
    assert (document.state, document.history) == ("cancelled", ())
    assert "was cancelled" in document.message
    assert "0 workflows were ended" in heal().skip_message


def test_a_run_without_workflows_touches_nothing(settings, instance):
    def work():
        raise ValueError("x")

    run, event = ended_run(instance, work, status="failed")
    assert "left no workflow behind" in evaluate(run_failures(settings), instance, run, event).skip_message
    assert commands(settings) == []
