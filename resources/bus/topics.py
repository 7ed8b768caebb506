"""How topics are made on a broker: one table, by name. docs/topics.md shows it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

Cleanup = Literal["delete", "compact"]

DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class TopicRule:
    """What holds for the topics whose name fits `pattern`, where `*` stands for anything.

    Args:
        pattern: of the name.
        partitions: order holds within one, so more of them only help topics with many keys and much traffic.
        retention: seconds that a message is kept at least.
        cleanup: whether old messages are removed, or all but the last of each key.
        purpose: what travels there.
    """

    pattern: str
    partitions: int
    retention: int
    cleanup: Cleanup
    purpose: str

    def config(self, replicas: int) -> dict[str, str]:
        """The topic's settings on the broker, for `replicas` copies of each message."""
        return {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention * 1000),
            # A write needs a majority, so that no single loss of a broker loses what was acknowledged.
            "min.insync.replicas": str(replicas // 2 + 1),
            # The port's timestamp is the bus's receipt, not the publisher's clock.
            "message.timestamp.type": "LogAppendTime",
        }


TOPIC_RULES: Final = (
    TopicRule("queue-control", 1, 7 * DAY, "delete", "commands to workers, one order for all"),
    TopicRule("queue-events", 1, 7 * DAY, "delete", "reports of workers, one order for all"),
    TopicRule("*.dlq", 1, 30 * DAY, "delete", "messages that could not be read, with the reason in their headers"),
    TopicRule(
        "wf-*", 1, 3 * DAY, "delete", "a workflow's data; deleted when it is over, kept when it failed: see below"
    ),
    TopicRule("*", 1, 7 * DAY, "delete", "anything else"),
)
"""The first rule that fits a name holds."""

MAX_REPLICAS: Final = 3
"""Copies of each message where there are that many brokers; else as many as there are brokers."""


def topic_rule(name: str) -> TopicRule:
    """The rule for the topic `name`."""
    return next(rule for rule in TOPIC_RULES if fnmatchcase(name, rule.pattern))


def topics_table() -> str:
    """The table as the documentation shows it."""
    rows = ["| topic | partitions | kept | cleanup | what travels there |", "|---|---|---|---|---|"]
    for rule in TOPIC_RULES:
        days = f"{rule.retention / DAY:g} days"
        rows.append(f"| `{rule.pattern}` | {rule.partitions} | {days} | {rule.cleanup} | {rule.purpose} |")
    return "\n".join(rows)
