"""Which symbols the exchange trades, asked as rarely as clients allow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from resources.errors import StreamForgeError, Unavailable
from resources.exchange import open_exchange
from resources.settings import Settings
from streamforge_assets.request import refuse_unknown
from streamforge_assets.simulator.config import SimulatorConfig

KNOWN_FOR = 60.0
ASK_LIMIT = 10.0


class Listing:
    """The exchange's list of symbols. An answer counts for KNOWN_FOR seconds, and so does the lack of one: clients
    that repeat a mistake must not use up the request weight that loaders need.

    Args:
        ask: gives the symbols that the exchange trades now, or raises an error of ours.
    """

    def __init__(self, ask: Callable[[], Awaitable[Sequence[str]]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._asked = float("-inf")
        self._known: Sequence[str] = ()
        self._fault = ""

    async def check(self, symbols: Sequence[str]) -> str:
        """Look `symbols` up.

        Returns:
            A sentence that says why they could not be looked up; empty when they were.

        Raises:
            Rejected: for a symbol that the exchange does not trade.
        """
        async with self._asking:
            if time.monotonic() - self._asked > KNOWN_FOR:
                try:
                    self._known, self._fault = await self._ask(), ""
                except StreamForgeError as error:
                    # A refusal, too, is no answer about a symbol: some networks may use the archive only.
                    self._fault = str(error)
                self._asked = time.monotonic()
        if self._fault:
            return f"the exchange was not asked whether it trades these symbols: {self._fault}"
        refuse_unknown(symbols, self._known)
        return ""


async def traded_symbols(settings: Settings) -> list[str]:
    """The symbols that the exchange of `settings` trades now.

    Raises:
        Unavailable: it does not answer within ASK_LIMIT seconds.
        Rejected: it refuses to say.
    """
    if settings.exchange == "simulated":
        # Known without asking: to start one for a question, and stop it, might take it away from a run.
        simulated = SimulatorConfig(symbols=settings.simulator_symbols, seed=settings.simulator_seed)
        return [item.symbol for item in simulated.instruments]
    async with open_exchange(settings) as exchange:
        try:
            async with asyncio.timeout(ASK_LIMIT):
                return await exchange.symbols()
        except TimeoutError as error:
            raise Unavailable(f"it does not answer within {ASK_LIMIT:g} s") from error
