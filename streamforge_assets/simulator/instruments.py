"""The symbols of the simulated exchange: names, opening prices, and the steps of price and quantity."""

from __future__ import annotations

import math
from dataclasses import dataclass

_KNOWN = {
    "BTC": 42_300.0,
    "ETH": 2_300.0,
    "SOL": 102.0,
    "BNB": 312.0,
    "XRP": 0.62,
    "DOGE": 0.09,
    "ADA": 0.6,
    "AVAX": 39.0,
    "LINK": 15.0,
    "TRX": 0.107,
    "LTC": 73.0,
    "DOT": 8.3,
}
QUOTE = "USDT"


@dataclass(frozen=True, slots=True)
class Instrument:
    """A trading pair. Prices are whole numbers of 10**-price_decimals, quantities of 10**-quantity_decimals.

    The two add up to at most seven decimals, so that price times quantity is exact within the exchange's eight.
    """

    symbol: str
    base: str
    index: int
    price: float

    @property
    def price_decimals(self) -> int:
        """Decimals of a price: about six significant digits at the opening price."""
        return min(max(5 - math.floor(math.log10(self.price)), 2), 6)

    @property
    def quantity_decimals(self) -> int:
        """Decimals of a quantity."""
        return min(7 - self.price_decimals, 5)

    @property
    def quote_decimals(self) -> int:
        """Decimals of price times quantity."""
        return self.price_decimals + self.quantity_decimals


def instruments(count: int) -> tuple[Instrument, ...]:
    """The first `count` symbols: well-known pairs, then invented ones (`C013USDT`)."""
    listed = list(_KNOWN.items())
    # The golden ratio spreads the invented prices over five decades without a random number.
    listed += [
        (f"C{i + 1:03d}", round(10 ** (-1.3 + 4.3 * (i * 0.618034 % 1)), 4)) for i in range(len(listed), count)
    ]
    return tuple(
        Instrument(f"{base}{QUOTE}", base, index, price) for index, (base, price) in enumerate(listed[:count])
    )
