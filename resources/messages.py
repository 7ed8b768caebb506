"""The two control messages of the platform, exactly as they travel: docs/messages.md shows both.

Unknown fields are kept, so that a newer sender can talk to an older reader.
"""

from __future__ import annotations

import time
from datetime import date
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resources.errors import Rejected

CONTROL_TOPIC = "queue-control"
EVENTS_TOPIC = "queue-events"

M = TypeVar("M", bound=BaseModel)

Command = Literal["start", "stop", "ping"]
Status = Literal["pending", "started", "loading", "finished", "error", "interrupted", "pong"]


class ControlMessage(BaseModel):
    """A command on `queue-control`. Only the workflow coordinator writes these."""

    model_config = ConfigDict(extra="allow", frozen=True)

    command: Command
    queue_id: str
    target: str
    symbol: str = ""
    type: str = ""
    time_range: str = Field(default="", description="half-open, `2024-08-01:2024-08-02`")
    kafka_topic: str = ""
    collection_name: str = ""
    telemetry_id: str = ""
    image: str = ""
    timestamp: float = Field(default_factory=time.time, description="seconds since the epoch")


class EventMessage(BaseModel):
    """A worker's report on `queue-events`. `finished` is true on the last event that a worker sends."""

    model_config = ConfigDict(extra="allow", frozen=True)

    queue_id: str
    producer: str
    symbol: str
    type: str
    status: Status
    message: str
    records_written: int = 0
    finished: bool = False
    timestamp: float = Field(default_factory=time.time, description="seconds since the epoch")
    partition: date | None = Field(default=None, description="the day that this event completes")


def encode(message: ControlMessage | EventMessage) -> bytes:
    """The message as UTF-8 JSON, without the optional fields that are not set."""
    return message.model_dump_json(exclude_none=True).encode()


def decode_control(value: bytes) -> ControlMessage:
    """Parse a command. Raises Rejected, naming the field, when it is not one."""
    return _decode(ControlMessage, value, CONTROL_TOPIC)


def decode_event(value: bytes) -> EventMessage:
    """Parse an event. Raises Rejected, naming the field, when it is not one."""
    return _decode(EventMessage, value, EVENTS_TOPIC)


def time_range(start: date, end: date) -> str:
    """The days from `start` up to but not including `end`, as messages write them."""
    return f"{start}:{end}"


def parse_time_range(text: str) -> tuple[date, date]:
    """The half-open range of days in `text`. Raises Rejected when it is none."""
    try:
        start, end = (date.fromisoformat(part) for part in text.split(":"))
    except ValueError as error:
        raise Rejected(f"{text!r} is not a time range; write it as 2024-08-01:2024-08-02") from error
    if start >= end:
        raise Rejected(f"the time range {text} is empty; its end is exclusive and must be after its start")
    return start, end


def _decode(model: type[M], value: bytes, topic: str) -> M:
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the message"
        raise Rejected(f"a message on {topic} is not valid: {where}: {first['msg']}") from error
