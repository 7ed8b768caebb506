"""Artifacts: files by key, such as models and reports. Keys are relative paths with forward slashes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self


class Artifacts(Protocol):
    """Files by key, whole or absent: a reader never sees a half-written one.

    Raises Rejected for a key that is empty, absolute or leaves the root, and for an absent key read;
    Unavailable when the storage cannot be reached or has no room.
    """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None:
        """Close. Closing twice is harmless."""

    @abstractmethod
    async def put(self, key: str, content: bytes | Path) -> None:
        """Store one file under `key`, replacing it if there."""

    @abstractmethod
    async def get(self, key: str) -> bytes:
        """Return one file."""

    @abstractmethod
    async def list(self, prefix: str = "") -> list[str]:
        """Return the keys at or below `prefix` (a whole path part), sorted. Unfinished prefixes are not listed."""

    @abstractmethod
    async def publish(self, prefix: str, files: Mapping[str, bytes | Path]) -> None:
        """Store all `files` (names relative to `prefix`) so that all of them appear or none.

        Replaces what the prefix held. The marker `_SUCCESS` is written last and listed with the files.
        """

    @abstractmethod
    async def delete(self, prefix: str) -> None:
        """Remove the file or the whole prefix. Removing an absent one is harmless."""
