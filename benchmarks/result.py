"""What a benchmark returns, and how two things are timed side by side."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One figure: its value and target in `unit`, and what it was measured against."""

    name: str
    value: float
    unit: str
    target: float
    reference: str
    ok: bool


def best_of_interleaved(
    rounds: int, first: Callable[[], object], second: Callable[[], object]
) -> tuple[float, float]:
    """The least seconds that each of two calls took, taking turns, so that a busy machine slows both."""
    best = [float("inf"), float("inf")]
    for turn in range(rounds):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            gc.collect()
            started = time.perf_counter()
            (first, second)[index]()
            best[index] = min(best[index], time.perf_counter() - started)
    return best[0], best[1]


def python_start() -> float:
    """The least seconds in which Python starts and imports what any part of the platform imports."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import aiokafka, pyarrow"], check=True)
        best = min(best, time.perf_counter() - began)
    return best
