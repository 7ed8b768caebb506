"""A queue-manager in this process, with a Dagster that does what a test says."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import httpx
import pytest

from resources.bus import open_bus
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.metrics import HEALING_PAGE, QUEUE_MANAGER_METRICS, Meter
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.queue_manager import manager
from streamforge_assets.queue_manager.app import build_app
from streamforge_assets.queue_manager.guard import read_token
from streamforge_assets.queue_manager.keeper import Keeper
from streamforge_assets.queue_manager.listing import Listing
from streamforge_assets.queue_manager.manager import Manager
from streamforge_assets.queue_manager.port import Dagster
from streamforge_assets.remote_dagster import RemoteProgress, Target

WANTED = {"symbols": ["BTCUSDT"], "start": "2024-08-01", "end": "2024-08-31"}
PARTITIONS = 60


class FakeDagster(Dagster):
    """Keeps backfills, which end when a test says so."""

    url = "http://dagster.test"

    def __init__(self) -> None:
        self.backfills: dict[str, RemoteProgress] = {}
        self.launched: list[tuple[Sequence[Target], Mapping[str, str], Mapping[str, object]]] = []
        self.away = self.loses_answers = False
        self.refuses = ""
        self.says = ""
        self.cancelled: list[str] = []

    def _reached(self) -> None:
        if self.away:
            raise Unavailable("no Dagster answers at http://dagster.test; start one with `streamforge ui`")
        if self.refuses:
            raise Rejected(self.refuses)

    async def check(self, assets=(), *, timeout=10.0):
        self._reached()

    async def launch_targets(self, targets, *, title, tags, config):
        self._reached()
        identity = f"bf{len(self.launched) + 1}"
        self.launched.append((targets, tags, config))
        self.backfills[identity] = RemoteProgress("REQUESTED", PARTITIONS, 0, 0)
        if self.loses_answers:
            raise Unavailable("the answer was lost")
        return identity

    async def find(self, tags, *, since: datetime):
        self._reached()
        assert since <= datetime.now(UTC)
        for identity, (_, own, _) in zip(self.backfills, self.launched, strict=True):
            if own == tags:
                return identity
        return None

    async def progress(self, backfill):
        self._reached()
        return self.backfills[backfill]

    async def cause(self, backfill):
        self._reached()
        return self.says

    async def cancel(self, backfill):
        self._reached()
        self.cancelled.append(backfill)
        self.report("CANCELING", backfill=backfill)

    def report(self, status: str, done: int = PARTITIONS, failed: int = 0, *, backfill: str = "") -> None:
        """Say how far a backfill is, the newest one unless named."""
        self.backfills[backfill or list(self.backfills)[-1]] = RemoteProgress(status, PARTITIONS, done, failed)


class FakeExchange:
    """Trades what a test says."""

    def __init__(self) -> None:
        self.trades = ["BTCUSDT", "ETHUSDT"]
        self.fault: StreamForgeError | None = None
        self.asked = 0

    async def symbols(self) -> Sequence[str]:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return self.trades


class Rig:
    """A queue-manager whose rounds a test takes one by one, or for as long as a request lasts."""

    def __init__(self, settings: Settings, store, bus, dagster: FakeDagster) -> None:
        self.settings, self.store, self.bus, self.dagster = settings, store, bus, dagster
        self.exchange = FakeExchange()
        self.start()

    def start(self) -> None:
        """Come up, as after a crash: nothing is left but the store and Dagster."""
        self.meter = Meter(QUEUE_MANAGER_METRICS)
        self.closing = asyncio.Event()
        self.keeper = Keeper(self.store, self.bus, self.dagster, self.meter, poll=0.02)
        self.manager = Manager(
            self.settings,
            self.store,
            self.dagster,
            self.keeper,
            Listing(self.exchange.symbols),
            self.meter,
            closing=self.closing,
        )
        self.healing = self.settings.home / HEALING_PAGE
        self.app = build_app(self.manager, self.meter, token=read_token(self.settings), healing=self.healing)
        transport = httpx.ASGITransport(self.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://queue-manager.test", timeout=20)

    async def begin(self, **changes) -> dict:
        answer = await self.http.post("/workflows", json=WANTED | changes)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def look(self, workflow: dict) -> dict:
        answer = await self.http.get(f"/workflows/{workflow['id']}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            await self.keeper.round()

    async def rounds_until(self, true: Callable[[], bool], limit: int = 50) -> None:
        for _ in itertools.repeat(None, limit):
            if true():
                return
            await self.keeper.round()
        raise AssertionError("it did not come true")


@pytest.fixture
async def rig(settings: Settings) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        bus = await stack.enter_async_context(open_bus(settings))
        yield Rig(settings, store, bus, FakeDagster())


@pytest.fixture
def with_token(settings: Settings, tmp_path) -> Settings:
    """Settings that ask for a token."""
    (tmp_path / "token").write_text("0123456789abcdef0123\n")
    return settings.model_copy(update={"api_token_file": tmp_path / "token"})


@pytest.fixture
def quick(monkeypatch):
    """Have what others wrote seen at once."""
    monkeypatch.setattr(manager, "LOOK", 0.02)
    monkeypatch.setattr(manager, "SEEN_FOR", 0.0)
