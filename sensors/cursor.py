"""A sensor's place in a topic, as Dagster keeps it between ticks: `{"v": 1, "topic": ..., "offsets": {"0": 123}}`.

**What happens to a cursor that cannot be used.** None yet: reading begins at the topic's beginning, quietly. One
that is broken, of another version or of another topic: reading begins at the topic's beginning too, and
`Place.complaint` says so, which a sensor must repeat where people look. Beginning anew repeats work but hides
nothing; beginning at the end would be cheaper, and lose in silence what came since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

VERSION: Final = 1
_SHOWN: Final = 80


class Place(NamedTuple):
    """Where to read on: the next offset of each partition. `complaint` tells why it is not where it was left."""

    offsets: Mapping[int, int]
    complaint: str = ""


def parse_cursor(text: str | None, topic: str) -> Place:
    """The place that `text` keeps. Never raises: see the module for what becomes of a text that is none."""
    if not text:
        return Place({})
    try:
        kept = json.loads(text)
    except (ValueError, RecursionError):
        return _reset(text, "it is not JSON")
    if not isinstance(kept, dict) or kept.get("v") != VERSION or isinstance(kept.get("v"), bool):
        return _reset(text, f"it is not of version {VERSION}")
    if kept.get("topic") != topic:
        return _reset(text, f"it is not of the topic {topic}")
    offsets = _offsets(kept.get("offsets"))
    return _reset(text, "its offsets are not numbers by partition") if offsets is None else Place(offsets)


def next_cursor(topic: str, offsets: Mapping[int, int]) -> str:
    """The text that keeps `offsets`. Equal offsets give equal texts."""
    numbered = {str(partition): offsets[partition] for partition in sorted(offsets)}
    return json.dumps({"v": VERSION, "topic": topic, "offsets": numbered})


def _offsets(kept: Any) -> dict[int, int] | None:
    if not isinstance(kept, dict):
        return None
    found: dict[int, int] = {}
    for partition, offset in kept.items():
        if not (partition.isascii() and partition.isdecimal() and len(partition) < 10):
            return None
        if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < 2**63:
            return None
        found[int(partition)] = offset
    return found


def _reset(text: str, reason: str) -> Place:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return Place({}, f"the cursor {shown!r} cannot be used, {reason}: reading begins at the topic's beginning")
