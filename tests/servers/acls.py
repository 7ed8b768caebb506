"""Give a secured broker the access rules of `resources/bus/acl.toml`, as its administrator."""

from __future__ import annotations

import ssl
from typing import Final

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest

from resources.bus.acl import Rule, users
from tests.servers.kafka import Kafka
from tests.servers.tls import ADMIN, ADMIN_PASSWORD

# The numbers of Kafka's protocol.
_RESOURCES: Final = {"topic": 2, "group": 3, "cluster": 4}
_OPERATIONS: Final = {"read": 3, "write": 4, "create": 5, "delete": 6, "describe": 8, "describe_configs": 10}
_LITERAL, _PREFIXED, _ALLOW = 3, 4, 3
_CLUSTER_NAME = "kafka-cluster"


async def apply_rules(kafka: Kafka) -> None:
    """Create an ACL for each operation of each rule."""
    assert kafka.secured is not None
    client = AIOKafkaClient(
        bootstrap_servers=kafka.bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username=ADMIN,
        sasl_plain_password=ADMIN_PASSWORD,
        ssl_context=ssl.create_default_context(cafile=kafka.secured.ca_file),
    )
    await client.bootstrap()
    try:
        for user in users():
            for rule in user.rules:
                for operation in rule.operations:
                    answer = await client.send(client.get_random_node(), _request(rule, operation))
                    assert [code for code, *_ in answer.creation_responses] == [0], answer
    finally:
        await client.close()


def _request(rule: Rule, operation: str) -> CreateAclsRequest:
    if rule.resource == "cluster":
        name, pattern = _CLUSTER_NAME, _LITERAL
    elif rule.name == "*" or rule.prefix is None:
        name, pattern = rule.name, _LITERAL
    else:
        name, pattern = rule.prefix, _PREFIXED
    kind = _RESOURCES[rule.resource]
    return CreateAclsRequest(kind, name, pattern, f"User:{rule.user}", "*", _OPERATIONS[operation], _ALLOW)
