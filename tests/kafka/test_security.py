"""Kafka with TLS, users and access rules: what is allowed works, all else is refused in one clear sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from resources.bus import Message, open_bus
from resources.bus.acl import allowed, users
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.settings import Settings
from resources.store import open_store
from sensors.leftovers import GRACE
from sensors.self_healing import sweep
from streamforge_assets import cli
from streamforge_assets.workflow.states import WORKFLOWS
from tests.contract.buses import numbered, numbers, read_all, take
from tests.kafka.conftest import PASSWORD
from tests.sensors.made import workflow
from tests.servers.kafka import Kafka
from tests.servers.tls import ADMIN, ADMIN_PASSWORD

As = Callable[..., Settings]
GROUPS = {"coordinator": "coordinator-{}", "worker": "loader-{}", "kafka-ui": "ui-{}"}


@pytest.fixture
def as_user(secured: Kafka, tmp_path: Path) -> As:
    """Settings for a user of the secured broker, changed as the test wants."""

    def settings(user: str, **changes: object) -> Settings:
        assert secured.secured is not None
        password = ADMIN_PASSWORD if user == ADMIN else PASSWORD.format(user)
        wanted: dict[str, object] = {
            "bus": "kafka",
            "home": tmp_path / "home",
            "kafka_bootstrap": secured.bootstrap,
            "kafka_security": "SASL_SSL",
            "kafka_user": user,
            "kafka_password": password,
            "kafka_ca_file": secured.secured.ca_file,
            "kafka_patience": 10.0,
        }
        return Settings(**(wanted | changes))  # type: ignore[arg-type]

    return settings


async def refusal(settings: Settings) -> StreamForgeError:
    """The error that opening the bus ends in."""
    with pytest.raises(StreamForgeError) as refused:
        async with open_bus(settings):
            pass
    assert "\n" not in str(refused.value)
    return refused.value


# --- who is let in


@pytest.mark.parametrize(("user", "password"), [("worker", "wrong"), ("nobody", "worker-password")])
async def test_a_wrong_password_and_an_unknown_user_are_refused_by_name(
    as_user: As, user: str, password: str
) -> None:
    error = await refusal(as_user(user, kafka_password=password))
    assert isinstance(error, Rejected)
    assert f"refuses the user {user}" in str(error)
    assert "STREAMFORGE_KAFKA_PASSWORD" in str(error)
    assert password not in str(error)


async def test_a_certificate_of_another_authority_is_not_trusted(as_user: As, secured: Kafka) -> None:
    assert secured.secured is not None
    other = secured.secured.folder / "other-ca.pem"
    error = await refusal(as_user("worker", kafka_ca_file=other))
    assert isinstance(error, Rejected)
    assert f"is not to be trusted by {other}" in str(error)
    assert "STREAMFORGE_KAFKA_CA_FILE" in str(error)


async def test_the_password_may_be_in_a_file(as_user: As, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD.format('worker')}\n")
    settings = as_user("worker", kafka_password="", kafka_password_file=secret)
    async with open_bus(settings) as bus:
        await bus.publish(f"wf-{name}", numbered(0, 1))


async def test_encryption_on_one_side_only_names_the_setting(as_user: As, address: str, secured: Kafka) -> None:
    to_plain = await refusal(as_user("worker", kafka_bootstrap=address))
    assert isinstance(to_plain, Unavailable)
    assert "STREAMFORGE_KAFKA_SECURITY=PLAINTEXT" in str(to_plain)
    to_tls = await refusal(Settings(bus="kafka", kafka_bootstrap=secured.bootstrap, kafka_patience=5))
    assert isinstance(to_tls, Unavailable)
    assert "STREAMFORGE_KAFKA_SECURITY=SASL_SSL" in str(to_tls)


@pytest.mark.parametrize("wrong", ["password", "nothing listens"])
def test_doctor_says_one_sentence_and_exits_with_1(
    as_user: As, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wrong: str
) -> None:
    settings = as_user("worker", kafka_password="wrong")
    address = settings.kafka_bootstrap if wrong == "password" else "127.0.0.1:9"
    variables = {
        "BUS": "kafka",
        "KAFKA_BOOTSTRAP": address,
        "KAFKA_SECURITY": "SASL_SSL",
        "KAFKA_USER": "worker",
        "KAFKA_PASSWORD": "wrong",
        "KAFKA_CA_FILE": str(settings.kafka_ca_file),
        "REST_URL": "http://127.0.0.1:9",
        "ARCHIVE_URL": "file:///nowhere",
        "EXCHANGE": "binance",
        "REQUEST_ATTEMPTS": "1",
    }
    for variable, value in variables.items():
        monkeypatch.setenv(f"STREAMFORGE_{variable}", value)
    monkeypatch.setattr(sys, "argv", ["streamforge", "doctor"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert ended.value.code == 1
    said = " ".join((out + err).split())
    assert ("refuses the user worker" if wrong == "password" else "nothing listens at 127.0.0.1:9") in said
    assert "Traceback" not in said
    assert "Unable" not in said  # aiokafka's own words


# --- who may do what


TOPICS = ("queue-control", "queue-events", "wf-{}-data", "else-{}")


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("user", [user.name for user in users()])
async def test_the_rules_decide_who_writes(as_user: As, user: str, topic: str, name: str) -> None:
    topic = topic.format(name)
    async with open_bus(as_user(ADMIN)) as admin, open_bus(as_user(user)) as bus:
        await admin.publish(topic, [Message(b"0")])
        before = await admin.end_offsets(topic)
        if allowed(user, "topic", topic, "write"):
            await bus.publish(topic, [Message(b"1")])
            assert sum((await admin.end_offsets(topic)).values()) == sum(before.values()) + 1
        else:
            with pytest.raises(Rejected, match=f"does not let the user {user}.*{topic}"):
                await bus.publish(topic, [Message(b"1")])
            assert await admin.end_offsets(topic) == before


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("user", [user.name for user in users()])
async def test_the_rules_decide_who_reads(as_user: As, user: str, topic: str, name: str) -> None:
    topic, group = topic.format(name), GROUPS[user].format(name)
    may = allowed(user, "topic", topic, "read") and allowed(user, "group", f"{group}:{topic}", "read")
    async with open_bus(as_user(ADMIN)) as admin, open_bus(as_user(user)) as bus:
        await admin.publish(topic, [Message(b"0")])
        if may:
            async with bus.subscribe(topic, group=group) as subscription:
                await subscription.commit((await take(subscription, 1, limit=1))[0])
            assert await bus.committed(topic, group=group) == {0: 1}
        else:
            with pytest.raises(Rejected, match=f"does not let the user {user}"):
                async with bus.subscribe(topic, group=group) as subscription:
                    await take(subscription, 1)
            assert await admin.committed(topic, group=group) == {}


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("user", [user.name for user in users()])
async def test_reading_without_a_group_needs_the_topic_only(as_user: As, user: str, topic: str, name: str) -> None:
    topic = topic.format(name)
    async with open_bus(as_user(ADMIN)) as admin, open_bus(as_user(user)) as bus:
        await admin.publish(topic, [Message(b"0")])
        if allowed(user, "topic", topic, "read"):
            async with bus.replay(topic, {}) as replay:
                assert numbers(await replay.receive(limit=1)) == [0]
        else:
            with pytest.raises(Rejected, match=f"does not let the user {user}"):
                async with bus.replay(topic, {}) as replay:
                    await replay.receive()


async def test_a_refused_write_leaves_the_bus_usable(as_user: As, name: str) -> None:
    """After a refusal an idempotent producer is out of order; the next event of the worker must still arrive."""
    topic = f"wf-{name}"
    async with open_bus(as_user(ADMIN)) as admin, open_bus(as_user("worker")) as bus:
        await admin.publish("queue-control", [Message(b"0")])
        for number in range(3):
            await bus.publish(topic, numbered(number, number + 1))
            with pytest.raises(Rejected):
                await bus.publish("queue-control", [Message(b"1")])
        assert numbers(await read_all(bus, topic, group=f"loader-{name}")) == [0, 1, 2]


async def test_a_worker_cannot_delete_a_workflows_data_and_the_coordinator_can(as_user: As, name: str) -> None:
    topic = f"wf-{name}-data"
    async with open_bus(as_user("worker")) as worker, open_bus(as_user("coordinator")) as coordinator:
        await worker.publish(topic, numbered(0, 2))
        with pytest.raises(Rejected, match=f"does not let the user worker delete the topic {topic}"):
            await worker.delete(topic)
        assert numbers(await read_all(worker, topic, group=f"loader-{name}")) == [0, 1]
        await coordinator.delete(topic)
        assert topic not in await coordinator.topics()


async def test_the_sweep_removes_what_is_known_to_be_over_and_nothing_of_others(as_user: As, name: str) -> None:
    """Two platforms may share the brokers, each with a store of its own."""
    settings = as_user("coordinator")
    one = workflow(state="finished", updated_at=datetime.now(UTC) - 2 * GRACE)
    async with open_store(settings) as store:
        await store.put_document(WORKFLOWS, one.queue_id, one.model_dump(mode="json"))
    theirs = f"wf-{name}-data"
    async with open_bus(as_user("worker")) as worker:
        for topic in (one.data_topic, theirs):
            await worker.publish(topic, numbered(0, 1))
        plan = await sweep(settings, now=datetime.now(UTC))
        left = await worker.topics()
    assert [topic for topic, _ in plan.leftovers] == [one.data_topic]
    assert theirs in plan.strangers
    assert (one.data_topic in left, theirs in left) == (False, True)


async def test_a_topic_is_made_only_by_who_may_make_it(as_user: As, name: str) -> None:
    async with open_bus(as_user("worker")) as bus, open_bus(as_user(ADMIN)) as admin:
        with pytest.raises(Rejected, match="does not let the user worker"):
            await bus.publish(f"else-{name}", numbered(0, 1))
        assert f"else-{name}" not in await admin.topics()


def test_only_the_coordinator_writes_commands() -> None:
    assert [user.name for user in users() if allowed(user.name, "topic", "queue-control", "write")] == [
        "coordinator"
    ]
