"""The completeness ledger's entry: what one partition holds, what it lacks, and why.

Positions are trade ids for trades, and open times (milliseconds since the epoch) for candles.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from resources.datasets import Partition

Proof = Literal["neighbour", "exchange", "candles", "none", "not needed"]
"""How the first (or last) trade of a day is known to be the first (or last):

neighbour: the adjacent day is stored and its ids continue; exchange: the exchange dates the adjacent id
outside the day; candles: the exchange's own candles count exactly the trades held; none: nothing could be
asked. Candles need no such proof: their grid is known.
"""


class Span(BaseModel):
    """An unbroken run of positions, both ends included."""

    model_config = ConfigDict(frozen=True)
    first: int
    last: int
    count: int


class Explained(Span):
    """Positions that the exchange itself does not have, with the evidence."""

    reason: Literal["no trades", "accepted"]
    evidence: str


class LedgerEntry(BaseModel):
    """What is known of one partition, computed from the stored rows.

    `rows + missing + explained == expected`. `version` is the store's token for the data that was examined;
    once the data change, the entry no longer counts.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    symbol: str
    day: date
    rows: int
    expected: int
    missing: tuple[Span, ...] = ()
    explained: tuple[Explained, ...] = ()
    first_time: datetime | None = None
    last_time: datetime | None = None
    first_position: int | None = None
    last_position: int | None = None
    start_proof: Proof = "not needed"
    end_proof: Proof = "not needed"
    source: str = ""
    source_checksum: str = ""
    bytes: int = 0
    seconds: float = 0.0
    accepted_by: str = ""
    written_at: datetime
    version: str = ""

    @property
    def partition(self) -> Partition:
        """The partition that this entry describes."""
        return Partition(self.dataset, self.symbol, self.day)

    @property
    def missing_count(self) -> int:
        """Positions that are absent without an explanation."""
        return sum(span.count for span in self.missing)

    @property
    def explained_count(self) -> int:
        """Positions that the exchange does not have, or whose absence somebody accepted."""
        return sum(span.count for span in self.explained)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing without an explanation."""
        return not self.missing
