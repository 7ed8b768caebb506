"""The request weight limit, enforced as the exchange does: per address, in fixed UTC minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 60
"""Seconds of a window. Windows begin at whole minutes UTC."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a request: its status (200, 429, 418), the weight used, seconds to wait if refused."""

    status: int
    used: int
    retry_after: int = 0


@dataclass(slots=True)
class _Account:
    window: int = -1
    used: int = 0
    refused: int = 0
    bans: int = 0
    banned_until: float = 0.0


class WeightMeter:
    """Counts the weight of each address and refuses what exceeds the limit.

    Args:
        limit: weight allowed per window.
        ban_after: refusals in one window after which the address is banned.
        ban_seconds: length of the first ban; each further one doubles.
        clock: seconds since the epoch.
    """

    def __init__(
        self, limit: int, ban_after: int, ban_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._limit, self._ban_after, self._ban_seconds = limit, ban_after, ban_seconds
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def charge(self, address: str, weight: int) -> Verdict:
        """Count a request and judge it. A refused request counts too."""
        now = self._clock()
        account = self._accounts.setdefault(address, _Account())
        window = int(now // WINDOW)
        if window != account.window:
            account.window, account.used, account.refused = window, 0, 0
        if now < account.banned_until:
            return Verdict(418, account.used, math.ceil(account.banned_until - now))
        account.used += weight
        if account.used <= self._limit:
            return Verdict(200, account.used)
        account.refused += 1
        if account.refused > self._ban_after:
            seconds = self._ban_seconds * 2**account.bans
            account.bans += 1
            account.banned_until = now + seconds
            return Verdict(418, account.used, math.ceil(seconds))
        return Verdict(429, account.used, math.ceil((window + 1) * WINDOW - now))
