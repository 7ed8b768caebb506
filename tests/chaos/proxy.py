"""A TCP proxy before a server: adds latency, limits bandwidth, cuts connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

CHUNK = 65_536
WAITING = 64
"""Chunks that may wait in one direction of one connection; the sender then waits itself."""


@dataclass
class Weather:
    """What the network is like now. May be changed at any time, also from another thread.

    Args:
        delay: seconds that each direction adds; half of the round trip.
        rate: bytes per second of each direction of each connection; None: no limit.
    """

    delay: float = 0.0
    rate: float | None = None


@dataclass
class Proxy:
    """Listens at `port` of this machine and passes everything on to `target`, as `weather` allows."""

    port: int
    target: int
    weather: Weather
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.close()
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def cut(self) -> None:
        """Reset every connection, as a firewall that forgot them would."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        pumps = [
            asyncio.ensure_future(self._pump(reader, far_writer)),
            asyncio.ensure_future(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in both:
                one.close()
            self._writers -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)
        clock = asyncio.get_running_loop().time

        async def take() -> None:
            while chunk := await reader.read(CHUNK):
                await queue.put((clock() + self.weather.delay, chunk))
            await queue.put((clock() + self.weather.delay, b""))

        taking = asyncio.ensure_future(take())
        try:
            while True:
                due, chunk = await queue.get()
                if (wait := due - clock()) > 0:
                    await asyncio.sleep(wait)
                if not chunk:
                    return
                writer.write(chunk)
                await writer.drain()
                if self.weather.rate is not None:
                    await asyncio.sleep(len(chunk) / self.weather.rate)
        except OSError:
            return
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
