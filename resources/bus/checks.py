"""What every bus refuses, in the same words."""

from __future__ import annotations

import re
from typing import Final

from resources.bus.port import MAX_LABEL_BYTES, MAX_MESSAGE_BYTES, Message
from resources.errors import Rejected

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


def check_name(kind: str, name: str) -> None:
    """Raise Rejected unless `name` can be the name of a topic or group; `kind` says which."""
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise Rejected(f"{name!r} is not a {kind}: use 1 to 249 letters, digits, dots, dashes and underscores")


def check_message(topic: str, message: Message) -> None:
    """Raise Rejected when `message` is over the port's limits or has labels that are not text."""
    if len(message.value) > MAX_MESSAGE_BYTES:
        raise Rejected(
            f"a message of {len(message.value)} bytes is over the limit of {MAX_MESSAGE_BYTES}; split it (nothing"
            f" of its batch was published to {topic})"
        )
    if (size := label_bytes(message)) > MAX_LABEL_BYTES:
        raise Rejected(
            f"a message's key and headers of {size} bytes are over the limit of {MAX_LABEL_BYTES}; put them into"
            f" its value (nothing of its batch was published to {topic})"
        )


def label_bytes(message: Message) -> int:
    """The size of key and headers, as `MAX_LABEL_BYTES` counts it. Raises Rejected when they are not text."""
    try:
        return len(message.key.encode()) + sum(
            len(name.encode()) + len(text.encode()) + 16 for name, text in message.headers.items()
        )
    except UnicodeEncodeError as error:
        raise Rejected(
            f"{error.object!r} in a key or header is not text that UTF-8 can hold; nothing was published"
        ) from error
