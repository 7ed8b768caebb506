"""What defines a simulated exchange."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime

from pydantic import BaseModel, ConfigDict, Field

from streamforge_assets.simulator.faults import Fault
from streamforge_assets.simulator.instruments import Instrument, instruments
from streamforge_assets.simulator.market import BARS, MarketParameters

_MODEL = 1
"""Raised whenever the same configuration starts to give other data, so that old caches are not read."""


class SimulatorConfig(BaseModel):
    """The simulated exchange: its market, its clock, its limits and its faults.

    Args:
        symbols: number of symbols.
        seed: seed of the market.
        first_day: first day of the market.
        listings: first day of a symbol that was listed later than the market.
        now: the exchange's clock, for tests; None for the real one. The weight limit always uses the real one.
        archive_delay: days between the end of a day and its archive files.
        weight_limit: request weight allowed per address and UTC minute.
        ban_after: refused requests in one minute after which an address is banned.
        ban_seconds: length of the first ban; each further one doubles.
        faults: faults from the start.
        r2: share of the variance that the planted structure explains, see `MarketParameters`.
        gated: whether edges transmit by the leader's volume.
        null: a market without structure.
        lags: edges act 1..lags five-minute bars later.
        switch_day: day from which a second network holds.
        trades_scale: factor on the number of trades.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbols: int = Field(12, ge=1, le=500)
    seed: int = Field(7, ge=0)
    first_day: date = date(2024, 1, 1)
    listings: dict[str, date] = {}
    now: datetime | None = None
    archive_delay: int = Field(0, ge=0)
    weight_limit: int = Field(6000, ge=1)
    ban_after: int = Field(10, ge=1)
    ban_seconds: float = Field(120.0, gt=0)
    faults: tuple[Fault, ...] = ()
    r2: float = Field(0.05, gt=0, lt=0.5)
    gated: bool = True
    null: bool = False
    lags: int = Field(1, ge=1, le=12)
    switch_day: date | None = None
    trades_scale: float = Field(1.0, gt=0)

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The symbols, the busiest first."""
        return instruments(self.symbols)

    @property
    def parameters(self) -> MarketParameters:
        """The market's parameters."""
        switch = None if self.switch_day is None else (self.switch_day - self.first_day).days * BARS
        return MarketParameters(
            n=self.symbols,
            seed=self.seed,
            r2=self.r2,
            gated=self.gated,
            null=self.null,
            lags=self.lags,
            switch_step=switch,
            trades=35_000 * self.trades_scale,
            minimum_trades=1_500 * self.trades_scale,
        )

    @property
    def digest(self) -> str:
        """Names the market: equal for configurations with equal data, whatever their clock, limits and faults."""
        return hashlib.sha256(f"{_MODEL} {self.parameters} {self.first_day}".encode()).hexdigest()[:16]

    def listing(self, symbol: str) -> date:
        """The first day on which `symbol` trades."""
        return max(self.first_day, self.listings.get(symbol, self.first_day))

    def current(self) -> datetime:
        """The exchange's time."""
        return datetime.now(UTC) if self.now is None else self.now.astimezone(UTC)
