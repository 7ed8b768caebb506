"""The store port and its adapters."""

from __future__ import annotations

from typing import assert_never

from resources.settings import Settings
from resources.store.port import Store


def open_store(settings: Settings) -> Store:
    """The store that the settings choose. Nothing is opened before `async with`."""
    match settings.store:
        case "lake":
            from resources.store.lake import LakeStore

            return LakeStore(settings.home / "lake")
        case other:
            assert_never(other)
