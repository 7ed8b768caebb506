"""The embedded event bus: an append-only log in one SQLite file that several processes use at once."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Self, TypeVar

from resources.bus.checks import check_message, check_name
from resources.bus.port import Bus, Delivery, Gap, Message, Replay, Start, Subscription
from resources.bus.sqlite_log import Extent, LogFile, Place
from resources.errors import Rejected, StreamForgeError

T = TypeVar("T")

logger = logging.getLogger("streamforge.bus")

_POLL: Final = 0.05
_EXPIRE_EVERY: Final = 3600.0
_open_buses: set[EmbeddedBus] = set()
_open_buses_lock = threading.Lock()


class EmbeddedBus(Bus):
    """A bus in the file `path`, for any number of processes on one machine. Every topic has one partition, 0.

    Durable means: what `publish` returned from survives the death of any process, at any instant, `kill -9`
    included. When the machine itself loses power, the file stays consistent, but the last moments before it
    (messages and commits alike, latest first) may be gone.

    A group's later subscription takes over from its earlier one, in this or any other process: the earlier
    one's `receive` and `commit` then raise Rejected. So nothing has to expire after a crash. The same happens
    to the subscriptions of a topic that is deleted; a topic of that name starts anew at offset 0.

    Messages go with their age, as docs/topics.md says, while any process has the bus open.

    A call that is cancelled has happened whole or not at all. Other processes learn of a message within about
    50 ms, buses in this process at once.

    Args:
        path: the file; it and its folder are made as needed. It must be on a local disk.
        patience: seconds that a call waits for another process's write before it raises Unavailable.
    """

    def __init__(self, path: Path, *, patience: float = 10.0) -> None:
        self._path = path.absolute()
        self._patience = patience
        self._writer: _Worker | None = None
        self._reader: _Worker | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: dict[str, asyncio.Event] = {}
        self._awaited = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self._writer is not None:
            raise Rejected(f"the event bus {self._path} is open already; make another one")
        writer = await _Worker.open("bus-writer", self._path, self._patience)
        try:
            self._reader = await _Worker.open("bus-reader", self._path, self._patience)
        except BaseException:
            await asyncio.wrap_future(writer.end())
            raise
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._tasks = (
            asyncio.create_task(self._watch_other_processes(self._reader)),
            asyncio.create_task(self._expire(writer)),
        )
        with _open_buses_lock:
            _open_buses.add(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        writer, reader, tasks = self._writer, self._reader, self._tasks
        self._writer = self._reader = None
        with _open_buses_lock:
            _open_buses.discard(self)
        self._tell_all()
        if writer is None or reader is None:
            return
        for task in tasks:
            task.cancel()
        # All are told to end before the first wait, so that a cancelled close still closes.
        reading = reader.end()
        await asyncio.gather(asyncio.shield(asyncio.wrap_future(writer.end(after=reading))), asyncio.wait(tasks))

    async def publish(self, topic: str, batch: Sequence[Message]) -> None:
        """Append `batch` to `topic` in order; all of it or nothing. Durable on return."""
        check_name("topic", topic)
        batch = tuple(batch)
        for message in batch:
            check_message(topic, message)
        if batch:
            await self._write(lambda log: log.append(topic, batch))
            _tell(self._path, topic)

    def subscribe(
        self, topic: str, *, group: str, start: Start = "earliest"
    ) -> AbstractAsyncContextManager[Subscription]:
        """Open the group's place in `topic`, taking it over from the group's earlier subscription, if any."""
        check_name("topic", topic)
        check_name("group", group)
        return self._subscribed(Place(topic, group, uuid.uuid4().hex), start)

    @asynccontextmanager
    async def replay(self, topic: str, offsets: Mapping[int, int]) -> AsyncIterator[Replay]:
        """Open `topic` at offsets of the caller's own, up to its present end, without a consumer group."""
        check_name("topic", topic)
        yield _EmbeddedReplay(self, await self._read(lambda log: log.extent(topic)), topic, offsets)

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """Return the offset that the next message will get, as `{0: offset}`; empty without a topic."""
        end = await self._read(lambda log: log.end(topic))
        return {} if end is None else {0: end}

    async def committed(self, topic: str, *, group: str) -> Mapping[int, int]:
        """Return the offset after the last committed one, as `{0: offset}`; empty without a commit."""
        position = await self._read(lambda log: log.committed(topic, group))
        return {} if position is None else {0: position}

    async def topics(self) -> list[str]:
        """Return the names of the topics that exist, sorted."""
        return await self._read(LogFile.topics)

    async def delete(self, topic: str) -> None:
        """Remove a topic, its messages and its groups' offsets. The room that it took is used again."""
        await self._write(lambda log: log.drop(topic))
        _tell(self._path, topic)
        # In small steps, so that other writers get their turn. What a crash leaves, the next delete sweeps.
        while await self._write(LogFile.sweep):
            pass

    @asynccontextmanager
    async def _subscribed(self, place: Place, start: Start) -> AsyncIterator[Subscription]:
        position = await self._write(lambda log: log.claim(place, start))
        _tell(self._path, place.topic)
        subscription = _EmbeddedSubscription(self, place, position)
        try:
            yield subscription
        finally:
            subscription.closed = True
            self._tell_topic(place.topic)
            # What cannot be released now is harmless: the next subscription takes it over.
            with suppress(StreamForgeError):
                await self._write(lambda log: log.release(place))

    async def _write(self, work: Callable[[LogFile], T]) -> T:
        return await self._opened(self._writer).do(work)

    async def _read(self, work: Callable[[LogFile], T]) -> T:
        return await self._opened(self._reader).do(work)

    def _opened(self, worker: _Worker | None) -> _Worker:
        if worker is None:
            raise Rejected(f"the event bus {self._path} is not open; use it inside `async with`")
        return worker

    def _news_of(self, topic: str) -> asyncio.Event:
        """An event that is set once `topic` may have changed. Take it before looking, so that no news is lost."""
        self._awaited.set()
        return self._news.setdefault(topic, asyncio.Event())

    def _tell_topic(self, topic: str) -> None:
        if event := self._news.pop(topic, None):
            event.set()

    def _tell_all(self) -> None:
        for topic in list(self._news):
            self._tell_topic(topic)

    async def _watch_other_processes(self, reader: _Worker) -> None:
        seen = -1
        while True:
            if not self._news:
                self._awaited.clear()
                await self._awaited.wait()
            try:
                changes = await reader.do(LogFile.changes)
            except StreamForgeError:
                # Whoever waits looks for itself, and meets the same error.
                changes = -1
            if changes != seen or changes == -1:
                self._tell_all()
            seen = changes
            await asyncio.sleep(_POLL)

    async def _expire(self, writer: _Worker) -> None:
        """Let old messages go, now and then: step by step, as `delete` does."""
        while True:
            try:
                expired = False
                while await writer.do(lambda log: log.expire(time.time())):
                    expired = True
                while expired and await writer.do(LogFile.sweep):
                    pass
            except StreamForgeError as error:
                logger.warning("old messages of the event bus could not be removed, and are later: %s", error)
            await asyncio.sleep(_EXPIRE_EVERY)


class _EmbeddedSubscription(Subscription):
    """A group's place in a topic. A cancelled `receive` loses nothing: the next one returns the same messages."""

    def __init__(self, bus: EmbeddedBus, place: Place, position: int) -> None:
        self._bus = bus
        self._place = place
        self._position = position
        self.closed = False

    async def receive(self, *, limit: int = 500, timeout: float = 1.0) -> list[Delivery]:
        """Return the next messages in order. Raises TakenOver, and Rejected once the topic is deleted."""
        if limit < 1:
            raise Rejected(f"at most {limit} messages cannot be received; ask for 1 or more")
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            self._check_open()
            news = self._bus._news_of(self._place.topic)  # noqa: SLF001
            batch = await self._bus._read(lambda log: log.read(self._place, self._position, limit))  # noqa: SLF001
            if batch:
                self._position = batch[-1].offset + 1
                return batch
            try:
                async with asyncio.timeout_at(deadline):
                    await news.wait()
            except TimeoutError:
                return []

    async def commit(self, delivery: Delivery) -> None:
        """Record that everything up to `delivery` is dealt with. Raises Rejected once the place is taken over."""
        self._check_open()
        if delivery.topic != self._place.topic:
            raise Rejected(f"a message of {delivery.topic} cannot be committed to {self._place.topic}")
        await self._bus._write(lambda log: log.commit(self._place, delivery.offset + 1))  # noqa: SLF001

    def _check_open(self) -> None:
        if self.closed:
            raise Rejected(f"this subscription to {self._place.topic} has been left; subscribe again")


class _EmbeddedReplay(Replay):
    """What a topic held when it was opened, from an offset on."""

    def __init__(self, bus: EmbeddedBus, extent: Extent | None, topic: str, offsets: Mapping[int, int]) -> None:
        self._bus = bus
        self._extent = extent
        self._positions = dict(offsets)
        self._gaps: list[Gap] = []
        if extent is not None:
            start = offsets.get(0, extent.first)
            if not extent.first <= start <= extent.end:
                self._gaps.append(Gap(topic, 0, start, extent.first))
                start = extent.first
            self._positions = {0: start}

    @property
    def positions(self) -> Mapping[int, int]:
        return dict(self._positions)

    @property
    def ends(self) -> Mapping[int, int]:
        return {} if self._extent is None else {0: self._extent.end}

    @property
    def gaps(self) -> Sequence[Gap]:
        return tuple(self._gaps)

    async def receive(self, *, limit: int = 500) -> list[Delivery]:
        """Return the next messages in order; an empty list at the end."""
        if limit < 1:
            raise Rejected(f"at most {limit} messages cannot be received; ask for 1 or more")
        extent, position = self._extent, self._positions.get(0, 0)
        if extent is None or position >= extent.end:
            return []
        batch = await self._bus._read(lambda log: log.read_between(extent, position, limit))  # noqa: SLF001
        self._positions[0] = batch[-1].offset + 1 if batch else extent.end
        return batch


class _Worker:
    """One thread with one connection: SQLite blocks, the event loop must not."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._log: LogFile | None = None

    @classmethod
    async def open(cls, name: str, path: Path, patience: float) -> Self:
        worker = cls(name)
        try:
            await asyncio.wrap_future(worker._pool.submit(worker._connect, path, patience))
        except BaseException:
            await asyncio.wrap_future(worker.end())
            raise
        return worker

    async def do(self, work: Callable[[LogFile], T]) -> T:
        """Run `work` in the thread. If this is cancelled, work that has begun is finished nevertheless."""
        return await asyncio.wrap_future(self._pool.submit(self._with_log, work))

    def end(self, *, after: Future[None] | None = None) -> Future[None]:
        """Finish what was begun, and `after`, then end the thread, whether or not anyone waits for the result.

        SQLite's last connection empties and removes the write-ahead log: only one that closes alone can.
        """
        closing = self._pool.submit(self._disconnect, after)
        self._pool.shutdown(wait=False)
        return closing

    def _connect(self, path: Path, patience: float) -> None:
        self._log = LogFile(path, patience=patience)

    def _with_log(self, work: Callable[[LogFile], T]) -> T:
        assert self._log is not None  # noqa: S101  # open() connects before anyone can call
        return work(self._log)

    def _disconnect(self, after: Future[None] | None) -> None:
        if after is not None:
            wait([after])
        if self._log is not None:
            with suppress(StreamForgeError):
                self._log.close()


def _tell(path: Path, topic: str) -> None:
    here = asyncio.get_running_loop()
    with _open_buses_lock:
        buses = [bus for bus in _open_buses if bus._path == path]  # noqa: SLF001
    for bus in buses:
        loop = bus._loop  # noqa: SLF001
        if loop is here:
            bus._tell_topic(topic)  # noqa: SLF001
        elif loop is not None:
            with suppress(RuntimeError):  # its loop has ended without closing it
                loop.call_soon_threadsafe(bus._tell_topic, topic)  # noqa: SLF001
