"""The event bus: ordered durable topics between parts that never call each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

Start = Literal["earliest", "latest"]


@dataclass(frozen=True, slots=True)
class Message:
    """What is published: bytes, the key that keeps related messages in order, and text headers."""

    value: bytes
    key: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as a consumer receives it. `timestamp` is the bus's receipt, in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    message: Message


class Subscription(Protocol):
    """One consumer's place in a topic. Used by one task at a time."""

    @abstractmethod
    async def receive(self, *, limit: int = 500, timeout: float = 1.0) -> list[Delivery]:
        """Return the next messages in order, at most `limit`, and about 8 MB of them.

        Returns as soon as there is one; an empty list after `timeout` seconds without any. Messages that were
        received and not committed come again to the group's next subscription, not to this one.
        """

    @abstractmethod
    async def commit(self, delivery: Delivery) -> None:
        """Record for the group that everything up to and including `delivery` is dealt with. Never goes back."""


class Bus(Protocol):
    """Ordered durable topics with at-least-once delivery.

    Messages with one key keep their order. A topic begins to exist with its first message, so subscribing
    to one that does not exist yet waits for it. Each consumer group sees every message; a group has one
    active subscription a topic at a time. A message is visible to consumers only once `publish` has made it
    durable, and then to every process.

    Raises Unavailable when the bus cannot be reached or has no room; Rejected for a message over
    `MAX_MESSAGE_BYTES`, in which case nothing of its batch is published.
    """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None:
        """Close. Closing twice is harmless."""

    @abstractmethod
    async def publish(self, topic: str, batch: Sequence[Message]) -> None:
        """Append `batch` to `topic` in order; all of it or nothing. Durable on return."""

    @abstractmethod
    def subscribe(
        self, topic: str, *, group: str, start: Start = "earliest"
    ) -> AbstractAsyncContextManager[Subscription]:
        """Open the group's place in `topic`: its committed offset, or `start` where it has none."""

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
"""Largest message value, headers not counted: Kafka's default limit."""
