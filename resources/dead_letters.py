"""Dead letters: messages that could not be read or stored, kept in `<topic>.dlq` with the reason as a header."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from resources.bus.port import Bus, Delivery, Message
from resources.errors import Rejected, StreamForgeError

SUFFIX: Final = ".dlq"
REASON: Final = "reason"
MAX_REASON: Final = 1000
"""Characters of a reason that are kept: one may name all that a large message has too much."""

REPLAYED: Final = "replayed"
"""The header of a dead letter that was sent again, late and out of the order in which it came."""

_ADDED: Final = (REASON, "source-topic", "source-partition", "source-offset", "set-aside-by", "set-aside-at")
_REPLAYER: Final = "dead-letter-replay"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was set aside, where it came from, and why. `offset` is its place among the dead letters."""

    offset: int
    source_topic: str
    source_partition: int
    source_offset: int
    reason: str
    set_aside_by: str
    set_aside_at: float
    message: Message


@dataclass(frozen=True, slots=True)
class DeadTopic:
    """A topic's dead letters: how many there are, and how many of them wait for a replay."""

    topic: str
    letters: int
    waiting: int


async def set_aside(bus: Bus, delivery: Delivery, error: StreamForgeError, *, by: str) -> None:
    """Keep `delivery` as a dead letter, with `error` as the reason.

    Where its own key and headers leave no room for that, it is kept without them.
    """
    reason = str(error)
    added = {
        REASON: reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}...",
        "source-topic": delivery.topic,
        "source-partition": str(delivery.partition),
        "source-offset": str(delivery.offset),
        "set-aside-by": by,
        "set-aside-at": f"{time.time():.3f}",
    }
    value, key, own = delivery.message
    try:
        await bus.publish(f"{delivery.topic}{SUFFIX}", [Message(value, key, {**own, **added})])
    except Rejected:
        await bus.publish(f"{delivery.topic}{SUFFIX}", [Message(value, "", added)])


async def dead_topics(bus: Bus) -> list[DeadTopic]:
    """Every topic that has dead letters, sorted by name."""
    found = []
    for name in await bus.topics():
        if name.endswith(SUFFIX):
            ends = await bus.end_offsets(name)
            done = await bus.committed(name, group=_REPLAYER)
            waiting = sum(end - done.get(partition, 0) for partition, end in ends.items())
            found.append(DeadTopic(name.removesuffix(SUFFIX), sum(ends.values()), waiting))
    return found


async def dead_letters(bus: Bus, topic: str, *, limit: int) -> list[DeadLetter]:
    """The oldest `limit` dead letters of `topic`.

    Raises:
        Rejected: the topic has none.
    """
    name = await _require(bus, topic)
    # A reader of its own, which commits nothing: looking changes nothing.
    deliveries: list[Delivery] = []
    total = sum((await bus.end_offsets(name)).values())
    async with bus.subscribe(name, group=f"dead-letter-reader-{time.time_ns()}") as letters:
        while len(deliveries) < min(limit, total):
            batch = await letters.receive(limit=limit)
            if not batch:
                break  # its retention took the rest
            deliveries += batch
    return [_letter(delivery) for delivery in deliveries[:limit]]


async def replay(bus: Bus, topic: str) -> int:
    """Publish the dead letters of `topic` that wait once more to it, each once; returns how many.

    Interrupted, it may publish the last one twice; stored rows are upserts, so that changes nothing.

    Raises:
        Rejected: the topic has no dead letters, or is gone, so that nobody would read them.
    """
    name = await _require(bus, topic)
    if topic not in await bus.topics():
        raise Rejected(
            f"{topic} is gone, so nobody would read its dead letters: its workflow is over; collect those days"
            " again with streamforge backfill"
        )
    ends = await bus.end_offsets(name)
    done = await bus.committed(name, group=_REPLAYER)
    waiting = sum(end - done.get(partition, 0) for partition, end in ends.items())
    seen: set[tuple[int, int]] = set()
    count = 0
    async with bus.subscribe(name, group=_REPLAYER) as letters:
        while count < waiting:
            batch = await letters.receive(limit=waiting - count)
            if not batch:
                break
            for delivery in batch:
                letter = _letter(delivery)
                # A connector that was killed before its commit sets the same message aside again.
                source = (letter.source_partition, letter.source_offset)
                if source not in seen:
                    seen.add(source)
                    value, key, own = letter.message
                    await bus.publish(topic, [Message(value, key, {**own, REPLAYED: str(letter.source_offset)})])
                await letters.commit(delivery)
            count += len(batch)
    return len(seen)


async def _require(bus: Bus, topic: str) -> str:
    name = f"{topic.removesuffix(SUFFIX)}{SUFFIX}"
    known = await bus.topics()
    if name not in known:
        others = ", ".join(other.removesuffix(SUFFIX) for other in known if other.endswith(SUFFIX))
        raise Rejected(
            f"{topic} has no dead letters; {f'these topics have: {others}' if others else 'no topic has'}"
        )
    return name


def _letter(delivery: Delivery) -> DeadLetter:
    headers = dict(delivery.message.headers)
    added = {name: headers.pop(name, "") for name in _ADDED}
    return DeadLetter(
        offset=delivery.offset,
        source_topic=added["source-topic"],
        source_partition=int(added["source-partition"] or 0),
        source_offset=int(added["source-offset"] or delivery.offset),
        reason=added[REASON],
        set_aside_by=added["set-aside-by"],
        set_aside_at=float(added["set-aside-at"] or delivery.timestamp),
        message=Message(delivery.message.value, delivery.message.key, headers),
    )
