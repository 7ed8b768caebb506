"""How an exchange is asked for market data: REST, archive, request weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resources.exchange.port import Exchange
    from resources.settings import Settings


def open_exchange(settings: Settings) -> Exchange:
    """Return the exchange that the settings choose, to be entered with `async with`. Opens nothing yet."""
    from resources.exchange.binance import BinanceExchange  # both kinds speak Binance's wire

    return BinanceExchange(settings)
