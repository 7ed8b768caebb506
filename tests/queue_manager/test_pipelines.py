"""A pipeline from its description to its end, with all that may happen on the way."""

import asyncio
import time
from datetime import UTC, date, datetime, timedelta

import pytest

from resources.datasets import TRADES
from resources.messages import CONTROL_TOPIC, decode_control
from streamforge_assets.queue_manager.keeper import Keeper
from streamforge_assets.queue_manager.pipeline import PIPELINES
from streamforge_assets.queue_manager.steps import PIPELINE_TAG
from streamforge_assets.workflow.states import WORKFLOWS, new_workflow
from streamforge_assets.workflow.takeover import LEFT_ALONE
from tests.queue_manager.conftest import PARTITIONS


async def loading(rig, **changes):
    """A workflow whose stage load is under way."""
    begun = await rig.begin(**changes)
    await rig.rounds()
    return begun


async def test_a_pipeline_goes_from_loading_to_forecasts_one_backfill_a_stage(rig):
    begun = await rig.begin(stages=["train", "load", "graph"])
    assert (begun["state"], [s["name"] for s in begun["stages"]]) == ("pending", ["load", "graph", "train"])
    for _ in range(3):
        await rig.rounds()
        rig.dagster.report("COMPLETED_SUCCESS")
        await rig.rounds()
    await rig.rounds()
    seen = await rig.look(begun)
    assert seen["state"] == "finished"
    assert [(s["state"], s["backfill"], s["done"]) for s in seen["stages"]] == [
        ("finished", f"bf{number}", PARTITIONS) for number in (1, 2, 3)
    ]
    assert seen["stages"][0]["url"] == "http://dagster.test/runs/b/bf1"
    made = [
        {"/".join(t.asset): (str(t.first), str(t.last)) for t in targets} for targets, _, _ in rig.dagster.launched
    ]
    assert made == [
        {"market/trades": ("2024-08-01", "2024-08-30"), "market/candles_5m": ("2024-08-01", "2024-08-30")},
        # The window is 21 days, and the first of all has no features.
        {"analysis/features": ("2024-08-01", "2024-08-30"), "analysis/asset_graph": ("2024-08-23", "2024-08-30")},
        {"models/gnn_model": ("2024-08-23", "2024-08-30"), "models/forecasts": ("2024-08-24", "2024-08-30")},
    ]


async def test_a_stage_follows_the_one_before_without_waiting_for_the_clock(rig):
    keeper = Keeper(rig.store, rig.bus, rig.dagster, rig.meter, poll=1.0)
    begun = await rig.begin(stages=["load", "graph", "train"])
    running = asyncio.create_task(keeper.run(rig.closing))
    began = time.monotonic()
    while (seen := await rig.look(begun))["state"] != "finished":
        assert time.monotonic() < began + 20
        for backfill in rig.dagster.backfills:
            rig.dagster.report("COMPLETED_SUCCESS", backfill=backfill)
        await asyncio.sleep(0.01)
    rig.closing.set()
    await running
    begins, ends = (
        [datetime.fromisoformat(stage[name]) for stage in seen["stages"]] for name in ("started_at", "ended_at")
    )
    assert [begin - end < timedelta(seconds=0.7) for begin, end in zip(begins[1:], ends, strict=False)] == [
        True
    ] * 2


async def test_progress_of_dagster_is_shown_while_a_stage_runs(rig):
    begun = await loading(rig)
    rig.dagster.report("REQUESTED", done=17, failed=1)
    await rig.rounds()
    load = (await rig.look(begun))["stages"][0]
    assert (load["state"], load["targeted"], load["done"], load["failed"]) == ("running", PARTITIONS, 17, 1)


async def test_partitions_that_are_not_made_fail_the_workflow_with_a_sentence_and_nothing_later_starts(rig):
    begun = await loading(rig)
    rig.dagster.report("COMPLETED_FAILED", done=58, failed=2)
    await rig.rounds(3)
    seen = await rig.look(begun)
    assert seen["state"] == "failed"
    assert seen["message"] == (
        "the stage load failed: 2 of 60 partitions were not made; see the backfill bf1 at http://dagster.test"
    )
    assert [s["state"] for s in seen["stages"]] == ["failed", "pending", "pending", "pending"]
    assert len(rig.dagster.launched) == 1


@pytest.mark.parametrize("length", [20, 5000])
async def test_a_failed_workflow_tells_what_a_run_failed_of_within_bounds(rig, length):
    begun = await loading(rig)
    rig.dagster.says = "x" * length
    rig.dagster.report("COMPLETED_FAILED", done=58, failed=2)
    await rig.rounds()
    said = (await rig.look(begun))["message"].split("; ")
    assert said[0] == "the stage load failed: 2 of 60 partitions were not made"
    assert said[1] == ("x" * length if length < 600 else "x" * 600 + "...")
    assert said[2] == "see the backfill bf1 at http://dagster.test"


async def test_where_gaps_are_tolerated_the_workflow_goes_on_and_says_what_is_missing(rig):
    begun = await loading(rig, tolerate_gaps=True)
    rig.dagster.report("COMPLETED_FAILED", done=58, failed=2)
    await rig.rounds(3)
    load, store, graph, _ = (await rig.look(begun))["stages"]
    assert (load["state"], store["state"], graph["state"]) == ("finished", "finished", "running")
    assert "2 of 60 partitions were not made" in load["message"]
    assert "60 of 60 partitions are not complete in the store; trades BTCUSDT 2024-08-01" in store["message"]


async def test_what_the_ledger_does_not_prove_fails_the_stage_store_whatever_dagster_says(rig):
    begun = await loading(rig, stages=["load", "store"])
    rig.dagster.report("COMPLETED_SUCCESS")
    await rig.rounds(2)
    seen = await rig.look(begun)
    assert (seen["state"], seen["stages"][1]["failed"]) == ("failed", PARTITIONS)
    assert "trades BTCUSDT 2024-08-01: nothing is stored" in seen["message"]


async def test_a_dagster_that_goes_away_in_the_middle_is_waited_for(rig):
    begun = await loading(rig, stages=["load"])
    rig.dagster.away = True
    await rig.rounds(10)
    seen = await rig.look(begun)
    assert seen["state"] == "running"
    assert seen["message"].startswith("waits: no Dagster answers")
    rig.dagster.away = False
    rig.dagster.report("COMPLETED_SUCCESS")
    await rig.rounds(2)
    seen = await rig.look(begun)
    assert (seen["state"], seen["message"]) == ("finished", "")


async def test_a_stage_that_dagster_refuses_again_and_again_fails_with_its_reason(rig):
    begun = await rig.begin()
    rig.dagster.refuses = "Dagster does not add the symbol BTCUSDT"
    await rig.rounds(10)
    seen = await rig.look(begun)
    assert (seen["state"], seen["message"]) == ("failed", "Dagster does not add the symbol BTCUSDT")


async def test_a_restart_in_the_middle_goes_on_with_the_backfill_that_runs(rig):
    begun = await loading(rig, stages=["load", "graph"])
    rig.start()
    rig.dagster.report("COMPLETED_SUCCESS")
    await rig.rounds(2)
    assert [s["state"] for s in (await rig.look(begun))["stages"]] == ["finished", "running"]
    assert len(rig.dagster.launched) == 2


async def test_a_backfill_whose_launch_was_not_noted_is_found_again_and_not_launched_twice(rig):
    """A crash between the launch and the note would load everything twice at the same time."""
    rig.dagster.loses_answers = True
    begun = await loading(rig, stages=["load"])
    assert (await rig.look(begun))["stages"][0]["backfill"] == ""
    rig.dagster.loses_answers = False
    rig.start()
    await rig.rounds()
    assert (await rig.look(begun))["stages"][0]["backfill"] == "bf1"
    assert [tags[PIPELINE_TAG] for _, tags, _ in rig.dagster.launched] == [begun["id"]]


async def test_a_stop_cancels_the_backfill_and_is_over_once_that_has_ended(rig):
    begun = await loading(rig)
    answer = await rig.http.post(f"/workflows/{begun['id']}/stop")
    assert (answer.status_code, answer.json()["state"]) == (202, "stopping")
    await rig.rounds(3)
    assert rig.dagster.cancelled == ["bf1"]
    assert (await rig.look(begun))["state"] == "stopping"
    rig.dagster.report("CANCELED", done=4)
    await rig.rounds()
    seen = await rig.look(begun)
    assert (seen["state"], seen["stages"][0]["state"], seen["stages"][0]["done"]) == ("cancelled", "cancelled", 4)
    assert seen["message"].endswith("what was stored stays")
    again = await rig.http.post(f"/workflows/{begun['id']}/stop")
    assert (again.status_code, again.json()["detail"]) == (409, f"{begun['id']} is over already: it is cancelled")


async def test_a_stop_is_granted_later_when_dagster_is_away_and_the_queue_manager_starts_anew(rig):
    begun = await loading(rig)
    rig.dagster.away = True
    assert (await rig.http.post(f"/workflows/{begun['id']}/stop")).status_code == 202
    await rig.rounds(2)
    rig.start()
    rig.dagster.away = False
    await rig.rounds()
    assert rig.dagster.cancelled == ["bf1"]


async def test_a_stop_before_the_first_stage_launches_nothing(rig):
    begun = await rig.begin()
    await rig.http.post(f"/workflows/{begun['id']}/stop")
    await rig.rounds()
    assert (await rig.look(begun))["state"] == "cancelled"
    assert rig.dagster.launched == []


async def test_a_stop_waits_for_live_workflows_and_tells_the_workers_of_one_left_alone(rig, quick):
    begun = await loading(rig)
    workflow = new_workflow(TRADES, "BTCUSDT", date(2024, 8, 1), date(2024, 8, 31), "x", backfill="bf1")

    async def kept(**changes):
        document = workflow.model_copy(update={"state": "running", **changes}).model_dump(mode="json")
        await rig.store.put_document(WORKFLOWS, workflow.queue_id, document)

    await kept(records=15_000)
    seen = await rig.look(begun)
    assert [(w["queue_id"], w["state"], w["records"]) for w in seen["workflows"]] == [
        (workflow.queue_id, "running", 15_000)
    ]
    await rig.http.post(f"/workflows/{begun['id']}/stop")
    rig.dagster.report("CANCELED", done=4)
    await rig.rounds(2)
    seen = await rig.look(begun)
    assert (seen["state"], seen["message"]) == ("stopping", "stops: 1 of its workflows still run")
    await kept(updated_at=datetime.now(UTC) - timedelta(seconds=LEFT_ALONE + 1))
    await rig.rounds()
    assert (await rig.look(begun))["state"] == "cancelled"
    document = await rig.store.document(WORKFLOWS, workflow.queue_id)
    assert (document["state"], begun["id"] in document["message"]) == ("cancelled", True)
    async with rig.bus.subscribe(CONTROL_TOPIC, group="test") as commands:
        heard = [decode_control(delivery.message.value).command for delivery in await commands.receive(timeout=5)]
    assert set(heard) == {"stop"}


async def test_a_workflow_belongs_to_the_pipeline_whose_backfill_asked_for_it_and_to_no_other(rig, quick):
    """Two clients that load the same days at once would each be shown, and would stop, the other's workers."""
    one, other = await rig.begin(), await rig.begin()
    await rig.rounds()
    days = (date(2024, 8, 1), date(2024, 8, 31))
    made = {
        backfill: new_workflow(TRADES, "BTCUSDT", *days, "x", backfill=backfill) for backfill in ("bf1", "bf2", "")
    }
    for workflow in made.values():
        await rig.store.put_document(WORKFLOWS, workflow.queue_id, workflow.model_dump(mode="json"))
    for begun in (one, other):
        seen = await rig.look(begun)
        owner = seen["stages"][0]["backfill"]
        assert [w["queue_id"] for w in seen["workflows"]] == [made[owner].queue_id]


async def test_a_stop_finds_the_workflows_of_a_backfill_whose_launch_was_not_noted(rig, quick):
    """A crash between the launch and the note must not leave workers without anybody to stop them."""
    rig.dagster.loses_answers = True
    begun = await loading(rig)
    rig.dagster.loses_answers = False
    gone = new_workflow(TRADES, "BTCUSDT", date(2024, 8, 1), date(2024, 8, 31), "x", backfill="bf1")
    gone = gone.model_copy(update={"state": "running", "updated_at": datetime.now(UTC) - timedelta(hours=1)})
    await rig.store.put_document(WORKFLOWS, gone.queue_id, gone.model_dump(mode="json"))
    await rig.http.post(f"/workflows/{begun['id']}/stop")
    rig.dagster.report("CANCELED", done=0)
    await rig.rounds(2)
    assert (await rig.look(begun))["state"] == "cancelled"
    assert (await rig.store.document(WORKFLOWS, gone.queue_id))["state"] == "cancelled"


async def test_a_backfill_that_somebody_cancels_in_dagster_ends_the_workflow_as_cancelled(rig):
    begun = await loading(rig)
    rig.dagster.report("CANCELED", done=3)
    await rig.rounds()
    seen = await rig.look(begun)
    assert (seen["state"], seen["message"]) == ("cancelled", "the backfill bf1 was cancelled in Dagster")


@pytest.mark.parametrize("refresh", [True, False])
async def test_the_assets_are_told_whether_to_load_anew(rig, refresh):
    await loading(rig, refresh=refresh)
    assert rig.dagster.launched[0][2]["refresh"] is refresh


async def test_a_document_that_cannot_be_read_stops_neither_the_list_nor_the_others(rig):
    await rig.store.put_document(
        PIPELINES, "pl-20240801-00000000", {"id": "pl-20240801-00000000", "of": "long ago"}
    )
    begun = await loading(rig, stages=["load"])
    rig.start()
    rig.dagster.report("COMPLETED_SUCCESS")
    await rig.rounds(2)
    listed = (await rig.http.get("/workflows")).json()["workflows"]
    assert [(one["id"], one["state"]) for one in listed] == [(begun["id"], "finished")]
