"""The service's web pages: /healthz, /readyz and /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from resources.errors import Rejected
from resources.metrics import Meter, registry_of
from streamforge_assets.workers.job import Job


class Health:
    """What /readyz tells: whether the service hears commands and is not on its way out."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self.connected = False

    @property
    def ready(self) -> bool:
        """Whether it may be given work."""
        return self.connected and not self._stop.is_set()


def pages(job: Job, meter: Meter, health: Health) -> FastAPI:
    """The pages of a service that pretends to do `job`."""
    app = FastAPI(title="dummy-service")
    labels = {"target": job.target, "symbol": job.symbol, "type": job.dataset.api_type}
    registry = registry_of(meter, labels)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive", "queue_id": job.queue_id, "telemetry_id": job.telemetry_id}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        response.status_code = 200 if health.ready else 503
        return {"status": "ready" if health.ready else "not ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the worker, which stops in order and takes the pages with it."""
        yield


@contextlib.asynccontextmanager
async def served(app: FastAPI, host: str, port: int) -> AsyncIterator[int]:
    """Serve `app` while inside; gives the port, chosen where it is 0.

    Raises:
        Rejected: the address cannot be used.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Rejected(f"{host}:{port} cannot be used ({error.strerror}); give another --port") from error
    server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
