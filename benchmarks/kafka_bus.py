"""The Kafka adapter against aiokafka alone at the same settings, on one broker of its own."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.made import trades
from benchmarks.result import Result
from resources.bus import Message
from resources.bus.kafka import KafkaBus, KafkaConfig
from resources.bus.kafka.producer import COMPRESSION
from resources.bus.kafka.reader import FETCH_BYTES
from resources.datasets import Partition
from resources.pages import decode_page, encode_pages
from tests.servers.kafka import Kafka

SHARE_TARGET = 0.9
PAGES_TARGET = 1e6
EVENTS = 100_000
EVENT_BYTES = 200
TOGETHER = 500
ROWS = 2_000_000
ROUNDS = 3


def run() -> list[Result]:
    """Events of 200 bytes a second, each way, and trade rows a second through pages and back."""
    with tempfile.TemporaryDirectory() as folder, Kafka(Path(folder) / "kafka") as kafka:
        return asyncio.run(_measure(KafkaConfig((kafka.bootstrap,))))


async def _measure(config: KafkaConfig) -> list[Result]:
    chance = np.random.default_rng(1)
    letters = np.frombuffer(b'abcdefghijklmnopqrstuvwxyz0123456789",:{} ', np.uint8)
    events = [chance.choice(letters, EVENT_BYTES).tobytes() for _ in range(EVENTS)]
    async with KafkaBus(config) as bus:
        raw_in, ours_in, raw_out, ours_out = await _interleaved(
            lambda topic: _raw_produce(config, topic, events),
            lambda topic: _produce(bus, topic, events),
            lambda topic: _raw_consume(config, topic),
            lambda topic: _consume(bus, topic),
            lambda topic: bus.publish(topic, [Message(b"")]),
        )
        seconds = min([await _pages(bus, f"wf-bench-{uuid.uuid4().hex[:8]}-data") for _ in range(3)])
    rows = ROWS / seconds
    return [
        _share("kafka_produce", raw_in, ours_in),
        _share("kafka_consume", raw_out, ours_out),
        Result(
            "kafka_pages",
            rows / 1e6,
            "M trade rows/s",
            PAGES_TARGET / 1e6,
            f"{ROWS / 1e6:.0f} M rows encoded, published, received and decoded",
            rows >= PAGES_TARGET,
        ),
    ]


def _share(name: str, raw: float, ours: float) -> Result:
    reference = f"aiokafka alone: {EVENTS / raw / 1e3:.0f} k events/s; ours {EVENTS / ours / 1e3:.0f} k"
    return Result(name, raw / ours, "x", SHARE_TARGET, reference, raw / ours >= SHARE_TARGET)


async def _interleaved(
    raw_in: Callable[[str], Awaitable[float]],
    ours_in: Callable[[str], Awaitable[float]],
    raw_out: Callable[[str], Awaitable[float]],
    ours_out: Callable[[str], Awaitable[float]],
    make: Callable[[str], Awaitable[None]],
) -> list[float]:
    """The least seconds of each, taking turns, so that a busy machine slows all."""
    best = [float("inf")] * 4
    for _ in range(ROUNDS):
        topics = [f"bench-{uuid.uuid4().hex[:8]}" for _ in range(2)]
        for topic in topics:
            await make(topic)
        times = [
            await raw_in(topics[0]),
            await ours_in(topics[1]),
            # Both read what the adapter wrote, so that they read the same record batches.
            await raw_out(topics[1]),
            await ours_out(topics[1]),
        ]
        best = [min(pair) for pair in zip(best, times, strict=True)]
    return best


async def _raw_produce(config: KafkaConfig, topic: str, events: Sequence[bytes]) -> float:
    options = {"enable_idempotence": True, "acks": "all", "compression_type": COMPRESSION}
    producer = AIOKafkaProducer(**config.client("bench"), **options, max_batch_size=128 * 1024)
    async with producer:
        await producer.partitions_for(topic)
        began = time.perf_counter()
        for start in range(0, EVENTS, TOGETHER):
            sent = [await producer.send(topic, event) for event in events[start : start + TOGETHER]]
        await producer.flush()
        await asyncio.gather(*sent)
        return time.perf_counter() - began


async def _produce(bus: KafkaBus, topic: str, events: Sequence[bytes]) -> float:
    began = time.perf_counter()
    parts = [events[start : start + TOGETHER] for start in range(0, EVENTS, TOGETHER)]
    await asyncio.gather(*(bus.publish(topic, [Message(event) for event in part]) for part in parts))
    return time.perf_counter() - began


async def _raw_consume(config: KafkaConfig, topic: str) -> float:
    consumer = AIOKafkaConsumer(
        **config.client("bench"), max_partition_fetch_bytes=FETCH_BYTES, enable_auto_commit=False
    )
    async with consumer:
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        seen = 0
        began = time.perf_counter()
        while seen < EVENTS + 1:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=TOGETHER)).values():
                seen += len(records)
        return time.perf_counter() - began


async def _consume(bus: KafkaBus, topic: str) -> float:
    async with bus.subscribe(topic, group=f"bench-{uuid.uuid4().hex[:8]}") as subscription:
        seen = 0
        began = time.perf_counter()
        while seen < EVENTS + 1:
            seen += len(await subscription.receive(limit=TOGETHER))
        return time.perf_counter() - began


async def _pages(bus: KafkaBus, topic: str) -> float:
    partition = Partition("trades", "BTCUSDT", date(2024, 8, 1))
    rows = trades(ROWS, start=partition.day)
    began = time.perf_counter()

    async def publish() -> None:
        for start in range(0, ROWS, 200_000):
            await bus.publish(topic, list(encode_pages(rows.slice(start, 200_000), partition, 1)))

    async with bus.subscribe(topic, group="bench") as subscription:
        publishing = asyncio.create_task(publish())
        seen = 0
        while seen < ROWS:
            for delivery in await subscription.receive():
                seen += decode_page(delivery.message).num_rows
        await publishing
    seconds = time.perf_counter() - began
    await bus.delete(topic)
    return seconds
