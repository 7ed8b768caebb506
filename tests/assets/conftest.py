import pytest

from resources.bus import open_bus
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.workers.runtime import Ports
from tests.contract.buses import opener
from tests.simulated import client, exchange, made, settings

__all__ = ["client", "exchange", "made", "opener", "ports", "settings"]


@pytest.fixture
async def ports(tmp_path):
    settings = Settings(home=tmp_path / "home")
    async with open_bus(settings) as bus, open_store(settings) as store:
        yield Ports(settings, bus, store, None)
