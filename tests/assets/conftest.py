from tests.contract.buses import opener
from tests.simulated import client, exchange, made, settings

__all__ = ["client", "exchange", "made", "opener", "settings"]
