"""One request-weight budget for everything this machine asks of an exchange.

The exchange counts request weight per IP address in fixed windows (whole UTC minutes) of its own clock. It
announces the limit in `exchangeInfo.rateLimits`, counts aloud in the header `X-MBX-USED-WEIGHT-1M`, and answers
429 (too much) or 418 (banned) with `Retry-After`. Source: binance-spot-api-docs `rest-api.md`, "LIMITS".
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from resources.errors import RateLimited, Rejected
from resources.exchange.state import State, StateFile

log = logging.getLogger("streamforge.exchange")

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

UNTOLD = 1200
"""Weight per minute assumed until the exchange tells its limit: the smallest that Binance ever had."""
PATIENCE = 120.0
"""Seconds that a block may last and still be waited for; a longer one is RateLimited."""
_SKEW = 0.25
_BAN_UNTOLD = 120.0


@dataclass(slots=True, eq=False)
class Grant:
    """Leave to send one request. `windows` are the windows in which the exchange may count it."""

    weight: int
    windows: set[int] = field(default_factory=set)


class WeightBudget:
    """Hands out request weight, in the order of asking, before a request is sent.

    A request is charged to every window in which the exchange might count it: near the edge of a minute, and
    while it is unanswered when a minute begins, to both. So the sum in no window exceeds `limit * share`, at the
    cost of a few requests per minute. Processes with the same state file share one budget; a request that
    another process has in flight over the edge of a minute is the one thing unseen, which the default share of
    95 % covers. Machines behind one address do not see each other's requests until the exchange's own counter
    tells, and order is fair within one process only.

    Args:
        state: the file shared by the processes of this machine.
        share: part of the limit that may be used, 0 to 1.
        clock: seconds since the epoch.
        sleep: waits for seconds.
    """

    def __init__(
        self, state: StateFile, *, share: float = 1.0, clock: Clock = time.time, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._state, self._share, self._clock, self._sleep = state, share, clock, sleep
        self._turn = asyncio.Lock()
        self._flying: set[Grant] = set()
        self._seen: dict[str, int] = {}  # the file's `used` as last seen; it only grows
        self._offset, self._doubt = 0.0, 0.0
        self.limit, self.seconds = UNTOLD, 60

    @property
    def allowed(self) -> int:
        """Weight that may be used per window."""
        return max(1, math.floor(self.limit * self._share))

    @property
    def header(self) -> str:
        """The header in which the exchange tells the weight used."""
        return f"X-MBX-USED-WEIGHT-{self.seconds // 60}M"

    def learn(self, rate_limits: Sequence[Mapping[str, object]]) -> None:
        """Take the limit from `exchangeInfo.rateLimits`; without a usable one the old limit stays.

        It is kept in the state file, for those who start later.
        """
        for rule in rate_limits:
            limit, minutes = rule.get("limit"), rule.get("intervalNum", 1)
            if rule.get("rateLimitType") != "REQUEST_WEIGHT" or rule.get("interval") != "MINUTE":
                continue
            if isinstance(limit, int) and isinstance(minutes, int) and limit > 0 and minutes > 0:
                self.limit, self.seconds = limit, 60 * minutes
                with self._state.change() as state:
                    state.limit, state.seconds = self.limit, self.seconds
                return

    def set_clock(self, server: float, sent: float, received: float) -> None:
        """Learn the exchange's clock from its time (seconds) in an answer, and when that was asked and came."""
        self._offset = server - (sent + received) / 2
        self._doubt = max(0.0, (received - sent) / 2)

    def server_time(self) -> float:
        """The exchange's time now, in seconds since the epoch, as far as known."""
        return self._clock() + self._offset

    async def acquire(self, weight: int) -> Grant:
        """Wait until `weight` may be spent. Give the grant back with `release`, whatever came of the request.

        Raises:
            Rejected: the weight exceeds what a whole window allows.
            RateLimited: the exchange refuses requests for longer than `PATIENCE` seconds.
        """
        async with self._turn:
            while True:
                grant, wait = self._try(weight)
                if grant is not None:
                    return grant
                await self._sleep(wait)

    def release(self, grant: Grant, used: str | None = None) -> None:
        """End a request. `used` is the header's value in its answer; None if there was none."""
        self._flying.discard(grant)
        now = self._windows()
        told = int(used) if used is not None and used.isdigit() else 0
        certain = len(grant.windows | now) == 1
        if now <= grant.windows and not (certain and told > self._seen.get(str(*now), 0)):
            return  # nothing that the file does not say already
        with self._state.change() as state:
            self._charge(state, grant, now)
            if certain:
                window = str(*now)
                state.used[window] = max(state.used.get(window, 0), told)
            self._seen = state.used

    def refused(self, *, banned: bool, retry_after: float | None) -> float:
        """Record a 429 (or, `banned`, a 418) and return its seconds: nobody on this machine asks before."""
        now = self._clock()
        if retry_after is None:
            retry_after = _BAN_UNTOLD if banned else self._until_next_window() + 1
        with self._state.change() as state:
            state.blocked_until = max(state.blocked_until, now + retry_after)
            state.banned = state.banned or banned
        log.warning(
            "the exchange %s requests; the next goes out in %.0f s", "bans" if banned else "refuses", retry_after
        )
        return retry_after

    def _try(self, weight: int) -> tuple[Grant | None, float]:
        """Take the weight now, or tell how many seconds to wait before trying again."""
        with self._state.change() as state:
            blocked = state.blocked_until - self._clock()
            if blocked > 0:
                if blocked > PATIENCE:
                    word = "has banned this address" if state.banned else "refuses requests"
                    raise RateLimited(
                        f"the exchange {word} for {blocked:.0f} more seconds; repeat after that",
                        retry_after=blocked,
                    )
                return None, blocked
            state.blocked_until, state.banned = 0.0, False
            if state.limit:
                # Told to another process, or to this one before it started again: 1200 would be used up at once.
                self.limit, self.seconds = state.limit, state.seconds
            if weight > self.allowed:
                raise Rejected(
                    f"a request of weight {weight} can never be sent: {self.allowed} is allowed in "
                    f"{self.seconds} seconds; raise STREAMFORGE_WEIGHT_SHARE or ask for less"
                )
            windows = self._windows()
            state.used = {key: used for key, used in state.used.items() if int(key) >= min(windows)}
            for flying in self._flying:
                self._charge(state, flying, windows)
            if any(state.used.get(str(window), 0) + weight > self.allowed for window in windows):
                return None, self._until_next_window()
            grant = Grant(weight)
            self._charge(state, grant, windows)
            self._flying.add(grant)
            self._seen = state.used
            return grant, 0.0

    @staticmethod
    def _charge(state: State, grant: Grant, windows: set[int]) -> None:
        for window in windows - grant.windows:
            state.used[str(window)] = state.used.get(str(window), 0) + grant.weight
        grant.windows |= windows

    def _windows(self) -> set[int]:
        """The windows that the exchange's clock may be in now: one, or two near an edge."""
        now, margin = self.server_time(), _SKEW + self._doubt
        return {math.floor((now - margin) / self.seconds), math.floor((now + margin) / self.seconds)}

    def _until_next_window(self) -> float:
        """Seconds until the exchange's next window has certainly begun."""
        margin = _SKEW + self._doubt
        return self.seconds - (self.server_time() - margin) % self.seconds + 0.01
