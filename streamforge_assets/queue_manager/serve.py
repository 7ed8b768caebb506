"""The queue-manager as a process: its ports, its background task, and a web server that ends when told to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from functools import partial

import uvicorn
from fastapi import FastAPI

from resources.bus import open_bus
from resources.errors import Rejected
from resources.metrics import HEALING_PAGE, QUEUE_MANAGER_METRICS, Meter
from resources.settings import Settings
from resources.store import open_store
from streamforge_assets.queue_manager.app import build_app
from streamforge_assets.queue_manager.guard import read_token
from streamforge_assets.queue_manager.keeper import Keeper
from streamforge_assets.queue_manager.listing import Listing, traded_symbols
from streamforge_assets.queue_manager.manager import Manager
from streamforge_assets.remote_dagster import RemoteDagster
from streamforge_assets.workers.main import stopped_by_signals

log = logging.getLogger("streamforge.queue_manager")

CONNECTIONS = 200
BACKLOG = 128
END_LIMIT = 5
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})


async def serve_queue_manager(settings: Settings, dagster_url: str, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        Rejected: the address or the token's file cannot be used.
        Unavailable: the store or the bus cannot be opened.
    """
    token = read_token(settings)
    if token is None and host not in _LOCAL:
        log.warning("whoever reaches %s can begin and stop work: set STREAMFORGE_API_TOKEN_FILE", host)
    meter = Meter(QUEUE_MANAGER_METRICS)
    dagster = RemoteDagster(dagster_url)
    with _listener(host, port) as listener:
        async with stopped_by_signals() as stop, open_store(settings) as store, open_bus(settings) as bus:
            keeper = Keeper(store, bus, dagster, meter)
            listing = Listing(partial(traded_symbols, settings))
            manager = Manager(settings, store, dagster, keeper, listing, meter, closing=stop)
            app = build_app(manager, meter, token=token, healing=settings.home / HEALING_PAGE)
            log.info(
                "listening at http://%s:%d, for the Dagster at %s", host, listener.getsockname()[1], dagster.url
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(keeper.run(stop))
                group.create_task(serve_app(app, listener, stop))


async def serve_app(app: FastAPI, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve `app` until `stop` is set; then answer what was asked, for END_LIMIT seconds at most."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=END_LIMIT,
    )
    server = _Server(config)

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    ending = asyncio.create_task(end())
    try:
        await server.serve(sockets=[listener])
    finally:
        ending.cancel()
        stop.set()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to us: everything ends together."""
        yield


@contextlib.contextmanager
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at the address; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Rejected(
            f"{host}:{port} cannot be used ({error.strerror}); give another --port or --host"
        ) from error
    try:
        yield listener
    finally:
        listener.close()
