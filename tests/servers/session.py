"""The broker that a test session shares: started when the first test needs it, ended with the session."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.servers.kafka import Kafka
from tests.servers.software import NotAvailable, kafka_jars

RUNNING = os.environ.get("STREAMFORGE_TEST_KAFKA", "")  # before the fixtures clear it

_shared: Kafka | None = None


def kafka_address() -> str:
    """`host:port` of a broker without security: a running one, `STREAMFORGE_TEST_KAFKA`, or one of our own."""
    global _shared  # noqa: PLW0603  # the session has one
    if RUNNING:
        return RUNNING
    if _shared is None:
        need_kafka()
        folder = Path(tempfile.mkdtemp(prefix="streamforge-kafka-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _shared = Kafka(folder / "kafka").__enter__()
        atexit.register(_shared.close)
    return _shared.bootstrap


def need_kafka() -> None:
    """Skip the test where Kafka cannot run, with the reason. In CI that is a failure."""
    try:
        kafka_jars()
    except NotAvailable as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run Kafka's tests: {reason}")
        pytest.skip(str(reason))
