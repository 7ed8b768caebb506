"""Brokers for what only Kafka promises. Each is started when the first test of its kind needs it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.bus.acl import users
from tests.servers.acls import apply_rules
from tests.servers.kafka import Kafka
from tests.servers.session import kafka_address, need_kafka
from tests.servers.tls import Secured, make_certificates

PASSWORD = "{}-password"


@pytest.fixture(scope="session")
def address() -> str:
    """The broker that the session shares: no security, not to be disturbed."""
    return kafka_address()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker of the module's own, to be killed, paused and restarted."""
    need_kafka()
    with Kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker with TLS, a user for each of the access rules' users, and those rules."""
    need_kafka()
    folder: Path = tmp_path_factory.mktemp("secured")
    make_certificates(folder / "tls")
    passwords = {user.name: PASSWORD.format(user.name) for user in users()}
    with Kafka(folder / "kafka", secured=Secured(folder / "tls", passwords)) as kafka:
        asyncio.run(apply_rules(kafka))
        yield kafka


@pytest.fixture
def name() -> str:
    """Something that no other test uses, for the names of topics and groups."""
    return uuid.uuid4().hex[:8]
