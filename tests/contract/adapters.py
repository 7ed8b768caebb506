"""What the ports' suites share: the fixture that runs a test on every adapter, other processes, and a deadline."""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

DEADLINE = 20.0

forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["pytest", "resources.bus", "resources.artifacts"])


def on_every(adapters: Mapping[str, Callable[[Path], AbstractAsyncContextManager[T]]]) -> Any:
    """A fixture that runs a test once for each adapter, with what its entry yields for an empty home."""

    @pytest.fixture(params=adapters)
    async def made(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[T]:
        async with adapters[request.param](tmp_path / "home") as made:
            yield made

    return made
