"""The OpenAPI document, checked against the app by schemathesis: whatever is sent, it answers as it says."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from resources.bus import open_bus
from resources.errors import Unavailable
from resources.store import open_store
from tests.queue_manager.conftest import FakeDagster, Rig

TOKEN = "0123456789abcdef0123"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
OPERATIONS = [
    ("GET", "/workflows"),
    ("POST", "/workflows"),
    ("GET", "/workflows/{workflow_id}"),
    ("POST", "/workflows/{workflow_id}/stop"),
    ("GET", "/workflows/{workflow_id}/events"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]
# Derandomised: the same cases every time.
BOUNDED = hypothesis_settings(
    max_examples=30, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
# A range of days that is empty or too short is written as the schema says, and still cannot be met.
CONFIG = {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422", "503"]}}}


@asynccontextmanager
async def opened(settings):
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        bus = await stack.enter_async_context(open_bus(settings))
        yield Rig(settings, store, bus, FakeDagster())


async def cancelled_workflow(rig) -> str:
    """A workflow that is over, so that following its events comes to an end."""
    rig.http.headers.update(AUTHORISED)
    begun = await rig.begin()
    await rig.http.post(f"/workflows/{begun['id']}/stop")
    await rig.rounds()
    return begun["id"]


@pytest.fixture
def rig(with_token):
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened(with_token)) as made:
        made.known = portal.call(cancelled_workflow, made)
        made.exchange.fault = Unavailable("away: symbols that are made up would all be unknown to it")
        made.start()
        yield made


@pytest.fixture
def api(rig):
    """The OpenAPI document of an app that asks for a token, loaded from it."""
    config = SchemathesisConfig.from_dict(CONFIG)
    return schemathesis.openapi.from_asgi("/openapi.json", rig.app, config=config, headers=AUTHORISED)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_asked_rightly_is_answered_as_the_document_says(api, rig, method, path):
    answered = set()

    @BOUNDED
    @given(case=api[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case):
        answered.add(case.call_and_validate(headers=AUTHORISED).status_code)
        if "{workflow_id}" in path:
            case.path_parameters["workflow_id"] = rig.known
            answered.add(case.call_and_validate(headers=AUTHORISED).status_code)

    check()
    assert answered & ({409} if path.endswith("/stop") else {200, 201}), "nothing was asked that could succeed"


@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if "workflows" in one[1]])
def test_what_is_asked_wrongly_is_refused_as_the_document_says(api, method, path):
    answered = set()

    @BOUNDED
    @given(case=api[path][method].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case):
        answered.add(case.call_and_validate(headers=AUTHORISED).status_code)

    check()
    assert answered & {404, 422}, "nothing was asked wrongly"


def test_a_new_route_is_generated_cases_for(api):
    """The list above would otherwise go stale without anybody noticing."""
    found = [(operation.ok().method.upper(), operation.ok().path) for operation in api.get_all_operations()]
    assert sorted(found) == sorted(OPERATIONS)
