"""The simulated exchange in a process of its own, for as long as somebody needs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from resources.errors import Unavailable
from resources.settings import Settings
from streamforge_assets.simulator.server import SERVICE

_DEADLINE = 30.0
_LOCAL = ("127.0.0.1", "localhost")


class ExchangeProcess:
    """A running exchange: one that was found, or one that was started and is stopped with its starter.

    Attributes:
        url: its base URL.
        started: whether it was started here.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.url = url
        self._process = process

    @property
    def started(self) -> bool:
        """Whether `stop` ends a process."""
        return self._process is not None

    def stop(self) -> None:
        """End the process if it was started here. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def start(settings: Settings, *, deadline: float = _DEADLINE) -> ExchangeProcess:
    """Have the simulated exchange of `settings` answer at `settings.rest_address`.

    One that answers already is used, and left alone by `stop`. A started one ends with this process, even when
    that is killed.

    Raises:
        Unavailable: the port is taken by something else, by an exchange with another market, or the exchange
            does not answer within `deadline` seconds.
    """
    url = settings.rest_address
    if _answers(settings):
        return ExchangeProcess(url)
    parts = urlsplit(url)
    if parts.hostname not in _LOCAL or parts.port is None:
        raise Unavailable(f"no simulated exchange answers at {url}, and only a local one can be started here")
    with TemporaryFile() as log:
        process = _spawn(settings, parts.port, log)
        exchange = ExchangeProcess(url, process)
        limit = time.monotonic() + deadline
        try:
            while not _answers(settings):
                if process.poll() is not None:
                    # Somebody else may have started the same exchange a moment earlier.
                    if _answers(settings):
                        exchange.stop()
                        return ExchangeProcess(url)
                    raise Unavailable(f"the simulated exchange did not start at {url}: {_last_line(log)}")
                if time.monotonic() > limit:
                    raise Unavailable(f"the simulated exchange at {url} did not answer in {deadline:.0f} s")
                time.sleep(0.05)
        except BaseException:
            exchange.stop()
            raise
    return exchange


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[ExchangeProcess]:
    """The simulated exchange of `settings`, started if none answers, and stopped if it was started.

    Raises Unavailable as `start` does.
    """
    exchange = await asyncio.to_thread(start, settings)
    try:
        yield exchange
    finally:
        await asyncio.to_thread(exchange.stop)


def _spawn(settings: Settings, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    home = Path(settings.home) / "simulator"
    command = [sys.executable, "-m", "streamforge_assets.simulator", "--port", str(port), "--home", str(home)]
    command += ["--symbols", str(settings.simulator_symbols), "--seed", str(settings.simulator_seed)]
    # The child ends when its standard input does, which also happens when this process is killed.
    return subprocess.Popen(  # our own interpreter, our own arguments
        [*command, "--until-input-ends"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=log,
        # An interrupt from the terminal is for the starter, which then stops the exchange in order.
        start_new_session=True,
    )


def _answers(settings: Settings) -> bool:
    """Whether the right exchange answers. Raises Unavailable when something else does."""
    url = f"{settings.rest_address}/health"
    try:
        with urlopen(url, timeout=5) as response:  # noqa: S310  # settings allow only http here
            health = json.loads(response.read())
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            return False
        raise Unavailable(
            f"something that is not the simulated exchange answers at {settings.rest_address} ({error});"
            " stop it, or set STREAMFORGE_REST_URL and STREAMFORGE_ARCHIVE_URL to another port"
        ) from error
    if not isinstance(health, dict) or health.get("service") != SERVICE:
        raise Unavailable(
            f"something that is not the simulated exchange answers at {settings.rest_address};"
            " stop it, or set STREAMFORGE_REST_URL and STREAMFORGE_ARCHIVE_URL to another port"
        )
    found = (health.get("symbols"), health.get("seed"))
    if found != (settings.simulator_symbols, settings.simulator_seed):
        raise Unavailable(
            f"the simulated exchange at {settings.rest_address} has {found[0]} symbols and seed {found[1]}, the"
            f" settings say {settings.simulator_symbols} and {settings.simulator_seed}; stop it, or use its values"
        )
    return True


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a word"
