"""A consumer group's one place, kept at the broker: taken over at once, and told when it is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiokafka import errors as kafka
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    MemberAssignment,
    ProtocolMetadata,
    SyncGroupRequest,
)

from resources.bus.kafka.cluster import Cluster, Topic, check
from resources.bus.port import TakenOver

SESSION: Final = 300.0
"""Seconds after which the broker forgets a place whose holder died. A new holder need not wait for it."""

_INSTANCE: Final = "reader"
_FENCED_INSTANCE: Final = 82
_LOST: Final = (kafka.UnknownMemberIdError, kafka.IllegalGenerationError)
_MOVED: Final = (
    kafka.NotCoordinatorForGroupError,
    kafka.GroupCoordinatorNotAvailableError,
    kafka.NodeNotReadyError,
    kafka.KafkaConnectionError,
    kafka.RequestTimedOutError,
)


def group_id(group: str, topic: str) -> str:
    """The name, at the brokers, of the group `group` of the port: there each topic has groups of its own."""
    return f"{group}:{topic}"


class Membership:
    """The right to commit for a group, held by the last one who took it.

    All holders join as the same static member, so that the broker lets a new one in at once, whatever became of
    the old one, and refuses the old one from then on. Partitions are not shared out: the holder reads them all.
    """

    def __init__(self, cluster: Cluster, group: str, topic: str) -> None:
        self._cluster = cluster
        self._group = group
        self._topic = topic
        self._id = group_id(group, topic)
        self._coordinator: int | None = None
        self._member = ""
        self._generation = -1

    async def join(self) -> None:
        """Take the place. Raises TakenOver when another takes it at the same time."""
        await self._cluster.persist(f"read {self._topic} as the group {self._group}", self._join)

    async def beat(self) -> None:
        """Tell the broker that the holder lives. Raises TakenOver once it was replaced, and aiokafka's errors."""
        try:
            answer = await self._send(HeartbeatRequest(self._id, self._generation, self._member))
            self._check(answer.error_code)
        except kafka.RebalanceInProgressError:
            await self._join()

    async def commit(self, topic: Topic, offsets: Mapping[int, int]) -> None:
        """Record the offsets of the next messages. Raises TakenOver, and Rejected once the topic is deleted."""
        await self._cluster.persist(
            f"record how far {self._group} has read {self._topic}", lambda: self._commit(topic, offsets)
        )

    async def committed(self, topic: Topic) -> dict[int, int]:
        """The recorded offsets of the next messages."""
        return await committed(self._cluster, self._group, topic)

    async def leave(self) -> None:
        """Give the place up. Raises aiokafka's errors; the place is then forgotten after `SESSION`."""
        await self._send(LeaveGroupRequest(self._id, self._member))

    async def _join(self) -> None:
        wish = ProtocolMetadata(0, [self._topic], b"").encode()
        session = int(SESSION * 1000)
        request = JoinGroupRequest(
            self._id, session, session, self._member, _INSTANCE, "consumer", [("range", wish)]
        )
        answer = await self._send(request)
        if answer.error_code in {error.errno for error in _LOST} and self._member:
            raise self._lost()
        self._check(answer.error_code)
        self._member, self._generation = answer.member_id, answer.generation_id
        # Whoever reads knows its partitions by itself; this is for tools that show who reads what.
        share = MemberAssignment(0, [(self._topic, [0])], b"").encode()
        shares = [(member[0], share) for member in answer.members] if answer.leader_id == self._member else []
        request = SyncGroupRequest(self._id, self._generation, self._member, _INSTANCE, shares)
        self._check((await self._send(request)).error_code)

    async def _commit(self, topic: Topic, offsets: Mapping[int, int]) -> None:
        # With the topic's id, so that offsets in a topic that was deleted say nothing about its namesake.
        partitions = [(partition, offset, topic.id) for partition, offset in offsets.items()]
        request = OffsetCommitRequest(self._id, self._generation, self._member, -1, [(self._topic, partitions)])
        try:
            for _, errors in (await self._send(request)).topics:
                for _, error_code in errors:
                    self._check(error_code)
        except kafka.RebalanceInProgressError:
            await self._join()
            raise

    async def _send(self, request: Any) -> Any:
        try:
            if self._coordinator is None:
                self._coordinator = await self._cluster.coordinator(self._id)
            return await self._cluster.send(request, node=self._coordinator, lane=ConnectionGroup.COORDINATION)
        except _MOVED:
            self._coordinator = None
            raise

    def _check(self, error_code: int) -> None:
        if error_code == _FENCED_INSTANCE:
            raise self._lost()
        try:
            check(error_code, self._topic)
        except _LOST as error:
            raise self._lost() from error
        except _MOVED:
            self._coordinator = None
            raise

    def _lost(self) -> TakenOver:
        # The brokers give one answer to a holder that was replaced and to one that they have forgotten.
        return TakenOver(self._group, self._topic, f"the brokers have not heard of this one for {SESSION:g} s")


async def committed(cluster: Cluster, group: str, topic: Topic) -> dict[int, int]:
    """The offsets of the next messages that `group` will be given of `topic`, where it has recorded any."""

    async def fetch() -> dict[int, int]:
        coordinator = await cluster.coordinator(group_id(group, topic.name))
        request = OffsetFetchRequest(group_id(group, topic.name), [(topic.name, list(topic.leaders))])
        answer = await cluster.send(request, node=coordinator, lane=ConnectionGroup.COORDINATION)
        check(answer.error_code, group)
        found: dict[int, int] = {}
        for _, partitions in answer.topics:
            for partition, offset, note, error_code in partitions:
                check(error_code, group)
                # Other tools, such as kafka-consumer-groups, leave no note when they set offsets.
                if offset >= 0 and note in {topic.id, "", None}:
                    found[partition] = offset
        return dict(sorted(found.items()))

    return await cluster.persist(f"tell how far {group} has read {topic.name}", fetch)
