"""Serve the simulated exchange in the foreground: `python -m streamforge_assets.simulator`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.server import serving


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns 1, with one sentence, when the port cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m streamforge_assets.simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=8650)
    parser.add_argument("--home", type=Path, default=Path(".streamforge/simulator"), help="folder of made files")
    parser.add_argument("--symbols", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--first-day", type=date.fromisoformat, default=date(2024, 1, 1))
    parser.add_argument("--weight-limit", type=int, default=6000, help="request weight per minute")
    parser.add_argument("--until-input-ends", action="store_true", help="stop when standard input is closed")
    given = parser.parse_args(arguments)
    config = SimulatorConfig(
        symbols=given.symbols, seed=given.seed, first_day=given.first_day, weight_limit=given.weight_limit
    )
    try:
        asyncio.run(_serve(config, given.home, given.port, until_input_ends=given.until_input_ends))
    except OSError as error:
        sys.stderr.write(f"the simulated exchange cannot listen on port {given.port}: {error.strerror}\n")
        return 1
    return 0


async def _serve(config: SimulatorConfig, home: Path, port: int, *, until_input_ends: bool) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if until_input_ends:

        def watch() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=watch, daemon=True).start()
    async with serving(config, home, port) as exchange:
        sys.stdout.write(f"simulated exchange at {exchange.url}, archive at {exchange.archive_url}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
