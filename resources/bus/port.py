"""The event bus: ordered durable topics between parts that never call each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Literal, NamedTuple, Protocol, Self

from resources.errors import Rejected

Start = Literal["earliest", "latest"]


NO_HEADERS: Final[Mapping[str, str]] = {}


# Named tuples, because they are the cheapest to make, and a busy reader makes hundreds of thousands a second.


class Message(NamedTuple):
    """What is published: bytes, the key that keeps related messages in order, and text headers."""

    value: bytes
    key: str = ""
    headers: Mapping[str, str] = NO_HEADERS


class Delivery(NamedTuple):
    """A message as a consumer receives it. `timestamp` is the bus's receipt, in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    message: Message


class TakenOver(Rejected):
    """A subscription has lost its group's place to a later one of the same group.

    Args:
        group: whose place it was.
        topic: in which.
        otherwise: what else may have taken the place, where the bus cannot tell.
    """

    def __init__(self, group: str, topic: str, otherwise: str = "") -> None:
        also = f", or {otherwise}" if otherwise else ""
        super().__init__(f"another subscription of {group} to {topic} has taken over{also}; this one must end")


class Subscription(Protocol):
    """One consumer's place in a topic. Used by one task at a time."""

    @abstractmethod
    async def receive(self, *, limit: int = 500, timeout: float = 1.0) -> list[Delivery]:
        """Return the next messages, at most `limit`, and about 8 MB of them; those of one partition in order.

        Returns as soon as there is one; an empty list after `timeout` seconds without any. Messages that were
        received and not committed come again to the group's next subscription, not to this one. Messages that
        the topic's retention has removed are passed over.

        Raises:
            TakenOver: once another subscription of the group has begun.
            Rejected: once the topic was deleted or the bus closed.
            Unavailable: when the bus has not answered for long. The next call goes on where this one was.
        """

    @abstractmethod
    async def commit(self, delivery: Delivery) -> None:
        """Record for the group that `delivery`, and all that this subscription gave before it, is dealt with.

        Never goes back. Raises TakenOver or Rejected once the place is lost, as `receive` does: the record is then
        unchanged.
        """


class Gap(NamedTuple):
    """Reading did not begin at the offset that was asked for, but at `resumed`.

    Where `resumed` is larger, the messages between are gone: the topic's retention took them. Where it is smaller,
    `asked` is beyond the topic's end: the topic is another one of the same name, which is read from its beginning.
    """

    topic: str
    partition: int
    asked: int
    resumed: int

    @property
    def lost(self) -> int:
        """Messages that were removed unread; 0 where the topic began anew."""
        return max(self.resumed - self.asked, 0)

    def __str__(self) -> str:
        where = f"partition {self.partition} of {self.topic}"
        if self.lost:
            return f"{self.lost} messages of {where} were removed before they were read ({self.asked} on)"
        return f"{where} has begun anew: offset {self.asked} was asked for and is not there yet"


class Replay(Protocol):
    """A topic's messages from given offsets up to where it ended on opening. Used by one task at a time."""

    @property
    @abstractmethod
    def positions(self) -> Mapping[int, int]:
        """For each partition, the offset after the last message that was given, or where reading begins.

        Without a topic: the offsets that were asked for.
        """

    @property
    @abstractmethod
    def ends(self) -> Mapping[int, int]:
        """For each partition, the offset at which reading ends."""

    @property
    @abstractmethod
    def gaps(self) -> Sequence[Gap]:
        """Where messages that were asked for are not there; known from the beginning, or met while reading."""

    @abstractmethod
    async def receive(self, *, limit: int = 500) -> list[Delivery]:
        """Return the next messages, at most `limit`, and about 8 MB of them; those of one partition in order.

        An empty list means that everything up to `ends` was given.

        Raises:
            Rejected: the topic was deleted, or the bus closed.
            Unavailable: the bus has not answered for long. The next call goes on where this one was.
        """


class Bus(Protocol):
    """Ordered durable topics with at-least-once delivery.

    Messages with one key keep their order; the empty key is a key. A topic begins to exist with its first message,
    so subscribing to one that does not exist yet waits for it. Each consumer group sees every message; a group has
    one active subscription a topic at a time, and a later one takes over from an earlier one at once. A message is
    visible to consumers only once it is durable, and then to every process.

    Raises Unavailable when the bus cannot be reached or has no room; Rejected for a message over
    `MAX_MESSAGE_BYTES` or `MAX_LABEL_BYTES`, in which case nothing of its batch is published, and for what the
    bus's access rules forbid.
    """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None:
        """Close. Closing twice is harmless."""

    @abstractmethod
    async def publish(self, topic: str, batch: Sequence[Message]) -> None:
        """Append `batch` to `topic`, in order for each key. Durable on return.

        All of it or nothing, whatever happens in between, for a batch of one key that is at most
        `MAX_MESSAGE_BYTES` in all, with `MESSAGE_OVERHEAD` added for each message. Of a larger batch, or one of
        several keys, a failure may leave parts, each of them whole and in order. After Unavailable or a
        cancellation it is not known whether the batch was published: publishing it again may repeat it.
        """

    @abstractmethod
    def subscribe(
        self, topic: str, *, group: str, start: Start = "earliest"
    ) -> AbstractAsyncContextManager[Subscription]:
        """Open the group's place in `topic`: its committed offset, or `start` where it has none."""

    @abstractmethod
    def replay(self, topic: str, offsets: Mapping[int, int]) -> AbstractAsyncContextManager[Replay]:
        """Open `topic` at offsets of the caller's own, up to its present end, without a consumer group.

        Takes nothing from anybody and leaves no trace at the bus. A partition that `offsets` does not name is read
        from its beginning. An offset that is not there is no error, but one of the replay's `gaps`.
        """

    @abstractmethod
    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """Return, for each partition, the offset that the next message will get; empty without a topic."""

    @abstractmethod
    async def committed(self, topic: str, *, group: str) -> Mapping[int, int]:
        """Return, for each partition, the offset of the next message that the group will be given."""

    @abstractmethod
    async def topics(self) -> list[str]:
        """Return the names of the topics that exist, sorted."""

    @abstractmethod
    async def delete(self, topic: str) -> None:
        """Remove a topic, its messages and its groups' offsets. Deleting an absent topic is harmless."""


MAX_MESSAGE_BYTES = 1_000_000
"""Largest message value: what Kafka's default limit of a batch leaves beside the largest key and headers."""

MAX_LABEL_BYTES = 32_768
"""Largest key and headers of a message together, as UTF-8, with 16 bytes added for each header."""

MESSAGE_OVERHEAD = 64
"""What a message adds to a batch beside its value, key and headers, at most."""
