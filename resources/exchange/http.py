"""The one place that speaks HTTP: bounded connections, limits on time, retries, and errors in our own words.

Retried, with jitter and up to `request_attempts` times: a connection that fails, is reset or stays silent, a
body that ends early, an answer 408 or 5xx, and a body that its reader does not accept. Not retried: other 4xx.
A host that cannot be reached, or does not serve the country that we ask from (451), is remembered for some
minutes, by all processes with the same home, so that a month of days does not wait for thirty time-outs; one quick
attempt now and then finds out when it is back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import aiohttp
import stamina

from resources.errors import RateLimited, Rejected, Unavailable
from resources.exchange.limits import PATIENCE, Clock, Sleep, WeightBudget
from resources.exchange.state import StateFile
from resources.settings import Settings

log = logging.getLogger("streamforge.exchange")

T = TypeVar("T")

REMEMBERED = 300.0
"""Seconds for which an unreachable host is remembered."""
PROBE_EVERY = 15.0
"""Seconds between single attempts to reach such a host."""
_PROBE_TIMEOUT = 3.0
_USER_AGENT = "streamforge"


class Passing(Exception):
    """A failure that a repeat may cure: at once, or, when it is `lasting`, only much later.

    `reached` tells whether the host answered at all.
    """

    def __init__(
        self, message: str, *, reached: bool = True, garbage: bool = False, lasting: bool = False
    ) -> None:
        super().__init__(message)
        self.reached, self.garbage, self.lasting = reached, garbage, lasting


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A value, and when (seconds, local clock) its request was sent and answered."""

    value: T
    sent: float
    received: float


class Http:
    """HTTP GET for the parts of this package. Opens nothing until entered; closing twice is harmless.

    Args:
        settings: connections, timeouts, attempts, addresses, home.
        clock: seconds since the epoch.
        sleep: waits for seconds; used for request weight only, the waits of retries are stamina's.
    """

    def __init__(self, settings: Settings, *, clock: Clock = time.time, sleep: Sleep = asyncio.sleep) -> None:
        self._settings, self._clock = settings, clock
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(settings.connections)
        self.state = StateFile(settings.home / "exchange", settings.rest_address)
        self.budget = WeightBudget(self.state, share=settings.weight_share, clock=clock, sleep=sleep)

    async def __aenter__(self) -> Self:
        silent = self._settings.request_timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._settings.connections),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=silent, sock_read=silent),
            headers={"User-Agent": _USER_AGENT},
            trust_env=True,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def rest(self, path: str, params: Mapping[str, str], *, weight: int, read: Callable[[bytes], T]) -> T:
        """GET from the REST API within the weight budget, and return `read(body)`.

        `read` raises Rejected for a body that is not what was asked for; the request is then repeated.

        Raises:
            Rejected: the exchange refuses the request (its code and message are in ours), or every answer was
                garbage.
            Unavailable: the exchange cannot be reached or stays broken; RateLimited while it refuses requests.
        """
        return (await self.rest_timed(path, params, weight=weight, read=read)).value

    async def rest_timed(
        self, path: str, params: Mapping[str, str], *, weight: int, read: Callable[[bytes], T]
    ) -> Timed[T]:
        """Like `rest`, with the times at which the request that succeeded was sent and answered."""
        url = f"{self._settings.rest_address}{path}"

        async def once() -> Timed[T]:
            body = await self._rest_once(url, params, weight)
            try:
                return Timed(read(body.value), body.sent, body.received)
            except Rejected as error:
                raise Passing(str(error), garbage=True) from error

        return await self.repeat("the REST API", url, once)

    async def _rest_once(self, url: str, params: Mapping[str, str], weight: int) -> Timed[bytes]:
        for _ in range(self._settings.request_attempts + 1):
            async with self._slots:
                grant = await self.budget.acquire(weight)
                sent, used = self._clock(), None
                try:
                    async with self.get(url, params=params) as response:
                        used = response.headers.get(self.budget.header)
                        body = await response.read()
                        status, after = response.status, _seconds(response.headers.get("Retry-After"))
                finally:
                    self.budget.release(grant, used)
            if status == 200:
                return Timed(body, sent, self._clock())
            if status not in (418, 429):
                raise _refusal(status, url, body)
            wait = self.budget.refused(banned=status == 418, retry_after=after)
            if wait > PATIENCE:
                break
        raise RateLimited(
            f"the exchange answers {status} and refuses requests for {wait:.0f} seconds; repeat after that",
            retry_after=wait,
        )

    @asynccontextmanager
    async def get(
        self, url: str, *, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one GET and give the open answer, whatever its status. Foreign errors become Passing."""
        if self._session is None:
            raise Rejected("the exchange is not open; use it inside `async with`")
        try:
            async with self._session.get(url, params=params, headers=headers) as response:
                yield response
        except aiohttp.InvalidURL as error:
            raise Rejected(
                f"{url} is not a URL; set STREAMFORGE_REST_URL or _ARCHIVE_URL like https://host"
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Passing(f"cannot connect: {error}", reached=False) from error
        except TimeoutError as error:
            silent = self._settings.request_timeout
            raise Passing(f"no data for {silent:g} seconds", reached=False) from error
        except aiohttp.ClientError as error:
            raise Passing(f"the connection failed: {error or type(error).__name__}") from error

    async def repeat(self, role: str, url: str, once: Callable[[], Awaitable[T]]) -> T:
        """Await `once()` until it succeeds, as the module's text says. `role` names the host in messages."""
        host = url.partition("://")[2].partition("/")[0]
        key = f"{role} {host}"
        known = self._silent(key)
        try:
            if known:
                async with asyncio.timeout(_PROBE_TIMEOUT):
                    result = await once()
            else:
                result = await self._stubborn(once)
        except (Passing, TimeoutError) as error:
            if isinstance(error, Passing) and error.reached:
                self._heard(key)
                if error.garbage:
                    raise Rejected(f"{role} gives a wrong answer: {error}") from error
                raise Unavailable(f"{role} at {host} stays broken ({url}): {error}; repeat later") from error
            raise self._unreachable(role, key, host, str(error) or "no answer", known=known) from error
        if known:
            self._heard(key)
        return result

    async def _stubborn(self, once: Callable[[], Awaitable[T]]) -> T:
        attempts = self._settings.request_attempts
        longest = attempts * (self._settings.request_timeout + PATIENCE)
        async for attempt in stamina.retry_context(
            on=_worth_repeating,
            attempts=attempts,
            timeout=longest,
            wait_initial=0.2,
            wait_max=10.0,
            wait_jitter=1.0,
        ):
            with attempt:
                return await once()
        raise AssertionError("stamina ends with a result or an error")

    def _silent(self, key: str) -> bool:
        """Whether the host is known as unreachable; raises Unavailable unless it is time to try it again."""
        if key not in self.state.read().silent:
            return False
        now = self._clock()
        with self.state.change() as state:
            until, again, why = state.silent.get(key, (0.0, 0.0, ""))
            if now >= until:
                state.silent.pop(key, None)
                return False
            if now < again:
                raise Unavailable(why)
            state.silent[key] = (until, now + PROBE_EVERY, why)
        return True

    def _unreachable(self, role: str, key: str, host: str, cause: str, *, known: bool) -> Unavailable:
        why = f"{role} at {host} cannot be reached ({cause})"
        if self._settings.exchange == "simulated":
            why += "; start the simulated exchange with `streamforge exchange serve`"
        else:
            why += "; check the network, or STREAMFORGE_REST_URL and STREAMFORGE_ARCHIVE_URL"
        now = self._clock()
        with self.state.change() as state:
            told = known or state.silent.get(key, (0.0, 0.0, ""))[0] > now
            state.silent[key] = (now + REMEMBERED, now + PROBE_EVERY, why)
        if not told:
            log.warning("%s. Going on without it", why)
        return Unavailable(why)

    def _heard(self, key: str) -> None:
        with self.state.change() as state:
            if state.silent.pop(key, None):
                log.info("%s answers again", key)


def _worth_repeating(error: Exception) -> bool:
    return isinstance(error, Passing) and not error.lasting


def check_status(response: aiohttp.ClientResponse, url: str) -> None:
    """Raise for a status that is neither success nor handled by the caller: Passing if a repeat may help."""
    if response.status >= 400:
        raise _refusal(response.status, url, b"")


def _refusal(status: int, url: str, body: bytes) -> Exception:
    if status in (408, 429) or status >= 500:
        return Passing(f"the answer was {status}")
    if status < 400:
        return Passing(f"the answer was {status} instead of 200")
    if status == 451:
        return Passing("it does not serve the country that we ask from: status 451", reached=False, lasting=True)
    code, message = "", body[:200].decode(errors="replace").strip()
    try:
        told = json.loads(body)
        code, message = f", code {told['code']}", str(told["msg"])
    except (ValueError, TypeError, KeyError):
        pass
    return Rejected(f"the exchange refuses {url}: status {status}{code}: {message or 'no reason given'}")


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.strip().isdigit() else None
