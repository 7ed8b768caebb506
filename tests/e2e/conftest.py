from tests.simulated import client, exchange, made, settings

__all__ = ["client", "exchange", "made", "settings"]
