"""aiokafka's errors in our words: one sentence that says what, where, and what to do."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Final

from aiokafka import errors as kafka
from aiokafka.conn import create_conn

from resources.bus.kafka.config import KafkaConfig
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.settings import PREFIX

_PROBE_LIMIT: Final = 3.0

_FORBIDDEN: Final = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
)
_REFUSED: Final = (
    kafka.MessageSizeTooLargeError,
    kafka.RecordListTooLargeError,
    kafka.InvalidTopicError,
    kafka.InvalidConfigurationError,
    kafka.InvalidPartitionsError,
    kafka.InvalidSessionTimeoutError,
    kafka.InconsistentGroupProtocolError,
    kafka.PolicyViolationError,
    kafka.CorruptRecordException,
    kafka.UnsupportedVersionError,
    kafka.IncompatibleBrokerVersion,
    NotImplementedError,
)


def quieten() -> None:
    """Keep aiokafka from reporting each attempt as an error: it is said once, by us, when none succeeded.

    Whoever wants its words gives the logger `aiokafka` a level.
    """
    logger = logging.getLogger("aiokafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def final(error: BaseException) -> bool:
    """Whether repeating the request can never help."""
    return isinstance(error, _FORBIDDEN + _REFUSED)


def explained(config: KafkaConfig, error: BaseException, what: str) -> StreamForgeError:
    """`error`, met while trying to `what`, as one of ours."""
    if isinstance(error, StreamForgeError):
        return error
    where = f"Kafka at {config.addresses}"
    if isinstance(error, _FORBIDDEN):
        who = f"the user {config.user}" if config.user else "users without a name"
        return Rejected(f"{where} does not let {who} {what}; give it that right, or use a user that has it")
    if isinstance(error, kafka.IncompatibleBrokerVersion | kafka.UnsupportedVersionError | NotImplementedError):
        return Rejected(f"{where} is too old to {what}: use version 3.1 or later")
    if isinstance(error, _REFUSED):
        return Rejected(f"{where} refuses to {what}: {_reason(error)}")
    return Unavailable(f"{where} could not {what}: {_reason(error)}; repeat when it is well again")


async def diagnosed(config: KafkaConfig, what: str) -> StreamForgeError:
    """Why the brokers cannot be used: tries each of them once, and says what stands in the way of the last.

    aiokafka keeps the reason to itself, so a connection is made just to meet it.
    """
    reason: StreamForgeError | None = None
    try:
        options = config.connection()
    except StreamForgeError as error:
        return error
    for address in config.bootstrap:
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(min(_PROBE_LIMIT, config.patience)):
                connection = await create_conn(host.strip("[]"), int(port), client_id="streamforge-why", **options)
            await connection.close()
        except (OSError, TimeoutError, kafka.KafkaError, asyncio.IncompleteReadError) as error:
            reason = _refused(config, address, error)
        else:
            return Unavailable(
                f"Kafka at {address} answers, but could not {what} within {config.patience:g} s; look at its"
                " brokers, and repeat when they are well again"
            )
    return reason or Unavailable(f"Kafka at {config.addresses} could not {what}")


def _refused(config: KafkaConfig, address: str, error: BaseException) -> StreamForgeError:
    """Why a connection was not made: Rejected where only other settings help."""
    match error:
        case kafka.SaslAuthenticationFailed():
            sentence = (
                f"Kafka at {address} refuses the user {config.user}: no user has that name and password; check"
                f" {PREFIX}KAFKA_USER and {PREFIX}KAFKA_PASSWORD (or ..._FILE)"
            )
        case kafka.UnsupportedSaslMechanismError():
            sentence = f"Kafka at {address} does not know users with SCRAM-SHA-512; enable that mechanism there"
        case ssl.SSLCertVerificationError():
            sentence = (
                f"the certificate of Kafka at {address} is not to be trusted by"
                f" {config.ca_file or 'the authorities of this system'}: {error.verify_message}; set"
                f" {PREFIX}KAFKA_CA_FILE to the authority that signed it"
            )
        case ssl.SSLError():
            sentence = (
                f"Kafka at {address} does not speak TLS; use its TLS port, or set {PREFIX}KAFKA_SECURITY=PLAINTEXT"
            )
        case _:
            return _unreachable(config, address, error)
    return Rejected(sentence)


def _unreachable(config: KafkaConfig, address: str, error: BaseException) -> Unavailable:
    match error:
        case ConnectionRefusedError():
            seen = f"nothing listens at {address}, where Kafka should be"
        case socket.gaierror():
            seen = f"the host of Kafka's address {address} is not known"
        case TimeoutError():
            seen = f"Kafka at {address} does not answer"
        case ConnectionError() | kafka.KafkaError() | asyncio.IncompleteReadError():
            other = "SASL_SSL" if config.security == "PLAINTEXT" else "PLAINTEXT"
            return Unavailable(
                f"Kafka at {address} ends the connection before it is made; if it wants {other}, set"
                f" {PREFIX}KAFKA_SECURITY={other}"
            )
        case _:
            seen = f"Kafka at {address} cannot be reached: {getattr(error, 'strerror', None) or error}"
    return Unavailable(f"{seen}; start it, or set {PREFIX}KAFKA_BOOTSTRAP to where it is, such as 127.0.0.1:9092")


def _reason(error: BaseException) -> str:
    name = type(error).__name__.removesuffix("Error").removesuffix("Exception")
    text = getattr(error, "description", "") or str(error)
    return f"{name} ({text})" if text else name
