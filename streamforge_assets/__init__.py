"""StreamForge: crypto market data, collected complete and turned into trained models.

import streamforge_assets as sf

s = sf.connect()
s.backfill(["candles_5m", "trades"], symbols=["BTCUSDT"], start="2024-08-01", end="2024-09-01")
s.candles("BTCUSDT", "5m", "2024-08-01", "2024-09-01")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamforge_assets.client import Result, StreamForge, connect

__all__ = ["Result", "StreamForge", "connect"]


def __getattr__(name: str) -> Any:
    # Workers import this package for their own modules; pandas and the client are loaded on first use.
    if name in __all__:
        from streamforge_assets import client

        return getattr(client, name)
    raise AttributeError(f"module 'streamforge_assets' has no attribute {name!r}")
