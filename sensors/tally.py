"""What a tick has read, added up: one sum for each asset partition, and one for the stream. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from resources.bus.port import Delivery
from resources.datasets import Partition, parse_dataset
from resources.errors import Rejected
from resources.messages import EventMessage, decode_event

NAMED: Final = 5
"""How many of the messages that cannot be read are named; all of them are counted."""

_HISTORY, _LIVE = "api_", "ws_"


@dataclass
class Sum:
    """The events of one asset partition.

    Attributes:
        events: how many.
        rows: that the events say were written to it.
        written: workflows one of whose events says that the partition was written.
        queue_ids: workflows that the events are of.
        failures: the sentences of those that say that it could not be loaded.
        last: the newest event.
        lag: messages that the writer of the newest event that tells has before it.
        spans: for each partition of the topic, the first and last offset.
    """

    events: int = 0
    rows: int = 0
    written: set[str] = field(default_factory=set)
    queue_ids: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    last: EventMessage | None = None
    lag: int | None = None
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, event: EventMessage, delivery: Delivery) -> None:
        """Add one event."""
        extra = event.model_extra or {}
        self.events += 1
        self.queue_ids.add(event.queue_id)
        self.last = event
        lag = extra.get("lag")
        self.lag = lag if isinstance(lag, int) else self.lag
        first, _ = self.spans.get(delivery.partition, (delivery.offset, 0))
        self.spans[delivery.partition] = (first, delivery.offset)
        if event.partition is None:
            return
        if extra.get("failed"):
            self.failures.append(event.message)
        elif not extra.get("stored"):
            self.written.add(event.queue_id)
            rows = extra.get("rows")
            self.rows += rows if isinstance(rows, int) else 0


@dataclass
class Tally:
    """What was read of a topic from `start` on.

    Args:
        topic: its name.
        start: the next offset of each of its partitions, before the first message.
        room: asset partitions that one tick may report on.

    Attributes:
        offsets: the next offset of each partition, after the last message that was added.
        messages: added so far; `broken` of them could not be read, the first few of which `named` tells.
        others: events that are of no asset partition, such as a worker's start or its pong.
        sums: by asset partition.
    """

    topic: str
    start: Mapping[int, int]
    room: int
    offsets: dict[int, int] = field(init=False)
    messages: int = 0
    broken: int = 0
    named: list[str] = field(default_factory=list)
    others: int = 0
    sums: dict[Partition, Sum] = field(default_factory=dict)
    _times: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self.offsets = dict(self.start)

    def add(self, delivery: Delivery) -> bool:
        """Add the next message. False, and nothing added, when it needs room that this tick does not have.

        A message that cannot be read is counted and passed: it would never become readable.
        """
        try:
            event = decode_event(delivery.message.value)
        except Rejected as error:
            self.broken += 1
            if len(self.named) < NAMED:
                self.named.append(f"partition {delivery.partition}, offset {delivery.offset}: {error}")
            self._pass(delivery)
            return True
        partition = partition_of(event)
        if partition is None:
            self.others += 1
        else:
            if partition not in self.sums and len(self.sums) >= self.room:
                return False
            self.sums.setdefault(partition, Sum()).add(event, delivery)
        self._pass(delivery)
        return True

    @property
    def rate(self) -> float | None:
        """Messages a second at which they came to the bus; None where that cannot be told."""
        if self._times is None or self._times[1] <= self._times[0]:
            return None
        return (self.messages - 1) / (self._times[1] - self._times[0])

    def lag(self, ends: Mapping[int, int]) -> int:
        """Messages before `ends` that were not added."""
        return sum(max(end - self.offsets.get(partition, 0), 0) for partition, end in ends.items())

    def _pass(self, delivery: Delivery) -> None:
        self.messages += 1
        self.offsets[delivery.partition] = delivery.offset + 1
        first, last = self._times or (delivery.timestamp, delivery.timestamp)
        self._times = (min(first, delivery.timestamp), max(last, delivery.timestamp))


def partition_of(event: EventMessage) -> Partition | None:
    """The asset partition that an event speaks of: the day that it completes, else the last one its worker did."""
    kind = event.type
    for prefix in (_HISTORY, _LIVE):
        kind = kind.removeprefix(prefix)
    day = event.partition or _day((event.model_extra or {}).get("watermark"))
    if day is None or not event.symbol or "|" in event.symbol:
        return None
    try:
        return Partition(parse_dataset(kind).name, event.symbol, day)
    except Rejected:
        return None


def _day(watermark: object) -> date | None:
    try:
        return date.fromisoformat(watermark) if isinstance(watermark, str) else None
    except ValueError:
        return None
