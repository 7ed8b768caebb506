"""What a client of the queue-manager sees: answers, refusals, the token, events."""

import asyncio
import json
import socket
import stat
from contextlib import asynccontextmanager

import httpx
import pytest

from resources.errors import Rejected, Unavailable
from resources.metrics import HEAL_SECONDS, HEALING_METRICS, HEALS, Meter, write_page
from streamforge_assets.queue_manager import app as app_module
from streamforge_assets.queue_manager import listing
from streamforge_assets.queue_manager import manager as manager_module
from streamforge_assets.queue_manager.guard import read_token
from streamforge_assets.queue_manager.serve import serve_app
from tests.queue_manager.conftest import WANTED

TOKEN = "0123456789abcdef0123"


def problem(answer: httpx.Response, status: int) -> str:
    """The sentence of a problem, checked for its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"]) == (status, "about:blank")
    assert body["title"]
    return body["detail"]


async def test_a_workflow_that_was_begun_is_found_by_its_location_and_in_the_list(rig):
    answer = await rig.http.post("/workflows", json=WANTED)
    assert answer.status_code == 201
    seen = (await rig.http.get(answer.headers["location"])).json()
    assert seen["description"]["datasets"] == ["trades", "candles_5m"]
    later = await rig.begin(stages=["load"])
    listed = (await rig.http.get("/workflows")).json()["workflows"]
    assert [one["id"] for one in listed] == [later["id"], seen["id"]]
    assert (await rig.http.get("/workflows?limit=1")).json()["workflows"][0]["id"] == later["id"]
    assert (await rig.http.get("/workflows?state=failed")).json()["workflows"] == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"symbols": ["btc"]},
            "#/symbols/0: 'btc' is not a symbol; write it as the exchange does, such as BTCUSDT",
        ),
        ({"symbols": []}, "#/symbols: it must have at least 1 item"),
        ({"datasets": ["candles_7m"]}, "#/datasets/0: 'candles_7m' is not a dataset; there are trades and"),
        ({"start": "1.8.2024"}, "#/start: '1.8.2024' is not a day; write it as 2024-08-01"),
        ({"start": 20240801}, "#/start: input should be a valid string"),
        ({"start": "20240801"}, "#/start: '20240801' is not a day; write it as 2024-08-01"),
        ({"end": None}, "#/end: input should be a valid string"),
        ({"ende": "2024-08-01"}, "#/ende: there is no such field"),
        ({"stages": ["dance"]}, "#/stages/0: input should be 'load', 'store', 'graph' or 'train'"),
        ({"folds": "7"}, "#/folds: input should be a valid integer"),
        ({"end": "2024-08-01"}, "the range 2024-08-01 to 2024-08-01 is empty"),
        ({"end": "2999-01-01"}, "2998-12-31 is not over yet"),
        ({"start": "2011-01-01"}, "2011-01-01 is before the first day of the partitions"),
        ({"end": "2024-08-05"}, "a model needs 21 days and one before them, and there are 4"),
        (
            {"datasets": ["trades"]},
            "the stages graph and train are made of candles_5m, which datasets do not name",
        ),
    ],
)
async def test_a_description_that_cannot_be_met_is_refused_with_one_sentence(rig, changes, sentence):
    answer = await rig.http.post("/workflows", json=WANTED | changes)
    assert problem(answer, 422).startswith(sentence)
    assert (await rig.http.get("/workflows")).json()["workflows"] == []


async def test_every_fault_of_a_description_is_told_at_once(rig):
    answer = await rig.http.post("/workflows", json={"symbols": ["btc"], "start": "x"})
    assert problem(answer, 422).endswith("(and 2 more)")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["#/symbols/0", "#/start", "#/end"]


async def test_more_partitions_than_dagster_bears_are_refused(rig):
    symbols = [f"A{number:03}" for number in range(500)]
    answer = await rig.http.post("/workflows", json=WANTED | {"symbols": symbols, "start": "2024-01-01"})
    assert "one workflow may have 100,000; describe several" in problem(answer, 422)


async def test_a_body_that_is_no_json_or_too_large_is_refused(rig):
    kind = {"content-type": "application/json"}
    assert "the body is not JSON" in problem(await rig.http.post("/workflows", content="{", headers=kind), 422)
    broken = await rig.http.post("/workflows", content=b"\xff", headers=kind)
    assert problem(broken, 400) == "the body cannot be read; it must be JSON in UTF-8"
    large = b'"' + b"x" * 300_000 + b'"'
    assert "larger than 256 kB" in problem(await rig.http.post("/workflows", content=large, headers=kind), 413)

    async def unannounced():
        for at in range(0, len(large), 10_000):
            yield large[at : at + 10_000]

    answer = await rig.http.post("/workflows", content=unannounced(), headers=kind)
    assert "larger than 256 kB" in problem(answer, 413)


@pytest.mark.parametrize("identity", ["pl-20240801-00000000", "wf-x", "..%2f..", "%00", "x" * 90])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("GET", "/events"), ("POST", "/stop")])
async def test_an_id_that_nobody_knows_is_not_found(rig, identity, method, suffix):
    problem(await rig.http.request(method, f"/workflows/{identity}{suffix}"), 404)


async def test_without_dagster_nothing_is_begun_and_the_answer_says_what_to_do(rig):
    begun = await rig.begin()
    rig.dagster.away = True
    answer = await rig.http.post("/workflows", json=WANTED)
    assert problem(answer, 503).endswith("start one with `streamforge ui`")
    assert answer.headers["retry-after"]
    listed = (await rig.http.get("/workflows")).json()["workflows"]
    assert [one["id"] for one in listed] == [begun["id"]]
    assert "no Dagster answers" in problem(await rig.http.get("/readyz"), 503)
    assert (await rig.http.get("/healthz")).status_code == 200


async def test_a_symbol_that_the_exchange_does_not_trade_is_refused_and_nothing_begins(rig):
    """Dagster would keep it as a partition, and the nightly schedule would ask for it for ever."""
    answer = await rig.http.post("/workflows", json=WANTED | {"symbols": ["BTCUSDT", "BTCUSDX"]})
    assert problem(answer, 422) == "the exchange does not trade BTCUSDX; it does trade BTCUSDT"
    assert (await rig.http.get("/workflows")).json()["workflows"] == []


async def test_a_client_that_repeats_its_mistake_does_not_use_up_the_request_weight(rig, monkeypatch):
    for _ in range(5):
        problem(await rig.http.post("/workflows", json=WANTED | {"symbols": ["BTCUSDX"]}), 422)
    assert rig.exchange.asked == 1
    monkeypatch.setattr(listing, "KNOWN_FOR", 0.0)
    rig.exchange.trades = ["BTCUSDX"]
    await rig.begin(symbols=["BTCUSDX"])


@pytest.mark.parametrize("fault", [Unavailable("no answer"), Rejected("status 451: not from your country")])
async def test_an_exchange_that_does_not_say_stops_nobody_and_the_workflow_tells_so_to_its_end(rig, fault):
    """Its archive may serve where its REST API does not."""
    rig.exchange.fault = fault
    begun = await rig.begin(symbols=["BTCUSDX"], stages=["load"])
    sentence = f"the exchange was not asked whether it trades these symbols: {fault}"
    assert begun["warnings"] == [sentence]
    await rig.rounds()
    rig.dagster.report("COMPLETED_SUCCESS")
    await rig.rounds(2)
    seen = await rig.look(begun)
    assert (seen["state"], seen["warnings"]) == ("finished", [sentence])


async def test_an_exchange_is_not_asked_about_what_is_not_loaded(rig):
    rig.exchange.trades = []
    begun = await rig.begin(stages=["graph", "train"])
    assert (begun["warnings"], rig.exchange.asked) == ([], 0)


async def test_an_exchange_that_never_answers_is_given_up(settings, monkeypatch):
    class Silent:
        async def symbols(self):
            await asyncio.sleep(3600)

    @asynccontextmanager
    async def silent(_):
        yield Silent()

    monkeypatch.setattr(listing, "ASK_LIMIT", 0.01)
    monkeypatch.setattr(listing, "open_exchange", silent)
    with pytest.raises(Unavailable, match=r"does not answer within 0\.01 s"):
        await listing.traded_symbols(settings.model_copy(update={"exchange": "binance"}))


async def test_the_symbols_of_a_simulated_exchange_are_known_without_one(settings):
    """One that is started for the question, and stopped, would be taken away from a run that has found it."""
    known = await listing.traded_symbols(settings)
    assert len(known) == settings.simulator_symbols
    assert "BTCUSDT" in known


async def test_no_more_than_the_allowed_workflows_are_under_way(rig, monkeypatch):
    monkeypatch.setattr(manager_module, "MOST_LIVE", 1)
    begun = await rig.begin()
    assert "are under way already" in problem(await rig.http.post("/workflows", json=WANTED), 503)
    await rig.http.post(f"/workflows/{begun['id']}/stop")
    await rig.rounds()
    await rig.begin()


async def test_the_metrics_page_counts_requests_and_workflows(rig):
    await rig.begin(stages=["load"])
    await rig.rounds()
    page = (await rig.http.get("/metrics")).text
    assert 'streamforge_queue_manager_requests_total{method="POST",route="/workflows",status="201"} 1.0' in page
    assert 'streamforge_queue_manager_backfills_total{stage="load"} 1.0' in page
    assert "streamforge_queue_manager_workflows 1.0" in page


async def test_the_metrics_page_shows_what_the_sensor_has_counted_of_healing_and_nothing_else_of_its_file(rig):
    rig.healing.parent.mkdir(parents=True)
    meter = Meter(HEALING_METRICS)
    write_page(meter, rig.healing)
    assert "heals_total{" not in (await rig.http.get("/metrics")).text
    meter.add(HEALS, 3, "coordinator")
    meter.add(HEAL_SECONDS, 7.5, "coordinator")
    write_page(meter, rig.healing)
    with rig.healing.open("a") as file:
        file.write("# TYPE streamforge_queue_manager_workflows gauge\nstreamforge_queue_manager_workflows 99\n")
    page = (await rig.http.get("/metrics")).text
    assert 'streamforge_heals_total{target="coordinator"} 3.0' in page
    assert 'streamforge_heal_seconds_total{target="coordinator"} 7.5' in page
    assert "# TYPE streamforge_heals_total counter" in page
    assert "streamforge_queue_manager_workflows 99" not in page


@pytest.mark.parametrize("content", [None, b"", b"streamforge_heals_total{ 1", b"\xff\xfe", b"x y z\n"])
async def test_the_metrics_page_is_whole_whatever_the_file_of_the_sensor_holds(rig, content):
    rig.healing.parent.mkdir(parents=True)
    if content is None:
        rig.healing.mkdir()
    else:
        rig.healing.write_bytes(content)
    answer = await rig.http.get("/metrics")
    assert answer.status_code == 200
    assert "streamforge_queue_manager_workflows 0.0" in answer.text


ROUTES = [
    ("GET", "/workflows"),
    ("POST", "/workflows"),
    ("GET", "/workflows/x"),
    ("GET", "/workflows/x/events"),
    ("POST", "/workflows/x/stop"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ö"]
)
async def test_without_the_token_every_route_but_the_health_ones_refuses(rig, with_token, header):
    rig.settings = with_token
    rig.start()
    headers = {"authorization": header.encode()} if header else {}
    for method, path in ROUTES:
        answer = await rig.http.request(method, path, headers=headers)
        assert "needs the token" in problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in answer.text
    for path in ("/healthz", "/readyz"):
        assert (await rig.http.get(path, headers=headers)).status_code == 200


async def test_with_the_token_a_client_works(rig, with_token):
    rig.settings = with_token
    rig.start()
    rig.http.headers["authorization"] = f"bearer {TOKEN}"
    await rig.look(await rig.begin())


@pytest.mark.parametrize("content", [None, "", "short", "two words that are long", "zwölf zwölf zwölf"])
def test_a_file_that_holds_no_token_is_refused_before_anything_is_served(settings, tmp_path, content):
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(stat.S_IRUSR)
    with pytest.raises(Rejected, match=r"STREAMFORGE_API_TOKEN_FILE names .*token"):
        read_token(settings.model_copy(update={"api_token_file": path}))


@pytest.fixture
async def served(rig, quick):
    """The queue-manager on a real socket: its address, and what ends it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        stop = rig.closing
        serving = asyncio.create_task(serve_app(rig.app, listener, stop))
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=10, trust_env=False
        ) as http:
            yield http
        stop.set()
        await asyncio.wait_for(serving, 10)


async def followers(http) -> int:
    page = (await http.get("/metrics")).text
    return next(
        int(float(line.split()[1]))
        for line in page.splitlines()
        if line.startswith("streamforge_queue_manager_streams ")
    )


async def becomes(http, wanted: int) -> None:
    async with asyncio.timeout(5):
        while await followers(http) != wanted:
            await asyncio.sleep(0.02)


async def test_events_tell_every_change_and_end_with_the_workflow(rig, served):
    begun = await rig.begin(stages=["load"])
    path = f"/workflows/{begun['id']}/events"
    async with asyncio.timeout(20), served.stream("GET", path) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.aiter_lines()

        async def told() -> tuple[str, str]:
            event = {}
            async for line in lines:
                if not line:
                    return event["event"], event["data"]
                name, _, value = line.partition(": ")
                event[name] = value
            raise AssertionError("the stream ended")

        async def state() -> str:
            name, data = await told()
            assert name == "workflow"
            return json.loads(data)["state"]

        assert await state() == "pending"
        await rig.rounds()
        assert await state() == "running"
        rig.dagster.report("COMPLETED_SUCCESS")
        await rig.rounds(2)
        while (last := await state()) == "running":
            pass
        assert last == "finished"
        assert await told() == ("over", "finished")
        assert [line async for line in lines] == []
    again = await served.get(path, headers={"last-event-id": "over"})
    assert again.status_code == 204


async def test_a_client_that_goes_away_is_followed_no_longer(rig, served):
    """Streams that outlive their clients would pile up until no other client is admitted."""
    begun = await rig.begin()
    async with served.stream("GET", f"/workflows/{begun['id']}/events") as stream:
        lines = stream.aiter_lines()  # kept: its end would close the connection
        assert (await anext(lines)) == "event: workflow"
        await becomes(served, 1)
    await becomes(served, 0)


async def test_a_quiet_stream_shows_that_it_lives(rig, served, monkeypatch):
    monkeypatch.setattr(app_module, "HEARTBEAT", 0.05)
    begun = await rig.begin()
    async with asyncio.timeout(5), served.stream("GET", f"/workflows/{begun['id']}/events") as stream:
        async for line in stream.aiter_lines():
            if line == ": still here":
                break


async def test_more_followers_than_allowed_are_refused(rig, served, monkeypatch):
    monkeypatch.setattr(manager_module, "MOST_STREAMS", 1)
    begun = await rig.begin()
    path = f"/workflows/{begun['id']}/events"
    async with served.stream("GET", path) as stream:
        lines = stream.aiter_lines()  # kept: its end would close the connection
        await anext(lines)
        assert "follow events already" in problem(await served.get(path), 503)


async def test_a_shutdown_ends_the_streams_at_once(rig, served):
    begun = await rig.begin()
    async with asyncio.timeout(5), served.stream("GET", f"/workflows/{begun['id']}/events") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        rig.closing.set()
        assert [line async for line in lines if line.startswith("event: over")] == []


async def test_the_background_task_ends_when_told_though_dagster_hangs(rig, monkeypatch):
    begun = await rig.begin()
    hanging = asyncio.Event()

    async def hang(*_, **__):
        hanging.set()
        await asyncio.sleep(3600)

    monkeypatch.setattr(rig.dagster, "launch_targets", hang)
    running = asyncio.create_task(rig.keeper.run(rig.closing))
    await asyncio.wait_for(hanging.wait(), 5)
    rig.closing.set()
    await asyncio.wait_for(running, 5)
    assert (await rig.look(begun))["state"] == "running"
