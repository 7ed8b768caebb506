"""Where the brokers are and how to be let in, checked before anything is opened."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from resources.errors import Rejected
from resources.settings import PREFIX, KafkaSecurity, Settings

MECHANISM: Final = "SCRAM-SHA-512"


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """What a `KafkaBus` needs to know.

    Args:
        bootstrap: `host:port` of some brokers; the rest is learnt from them.
        security: `PLAINTEXT`, or `SASL_SSL`: TLS, and a user with SCRAM-SHA-512.
        user: the user's name at the brokers.
        password: and its password.
        ca_file: authority that signed the brokers' certificates; None: the system's.
        request_timeout: seconds after which a request that a broker leaves unanswered is repeated.
        patience: seconds that a call goes on repeating before it raises Unavailable.
    """

    bootstrap: tuple[str, ...]
    security: KafkaSecurity = "PLAINTEXT"
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    request_timeout: float = 8.0
    patience: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take what the settings say. Raises Rejected, naming the variable, where they do not fit together."""
        config = cls(
            bootstrap=tuple(address.strip() for address in settings.kafka_bootstrap.split(",")),
            security=settings.kafka_security,
            user=settings.kafka_user,
            password=_password(settings),
            ca_file=settings.kafka_ca_file,
            request_timeout=min(8.0, settings.kafka_patience),
            patience=settings.kafka_patience,
        )
        if config.security == "PLAINTEXT":
            if config.user or config.ca_file:
                raise Rejected(
                    f"{PREFIX}KAFKA_USER and {PREFIX}KAFKA_CA_FILE need encryption: set"
                    f" {PREFIX}KAFKA_SECURITY=SASL_SSL, or take them away"
                )
        elif not config.user or not config.password:
            raise Rejected(
                f"{PREFIX}KAFKA_SECURITY=SASL_SSL needs a user: set {PREFIX}KAFKA_USER, such as worker, and"
                f" {PREFIX}KAFKA_PASSWORD or {PREFIX}KAFKA_PASSWORD_FILE"
            )
        return config

    @property
    def addresses(self) -> str:
        """The brokers to begin with, as messages name them."""
        return ",".join(self.bootstrap)

    def connection(self) -> dict[str, Any]:
        """How aiokafka opens a connection. Raises Rejected when the CA file cannot be read."""
        options: dict[str, Any] = {
            "request_timeout_ms": int(self.request_timeout * 1000),
            "security_protocol": self.security,
        }
        if self.security == "SASL_SSL":
            options |= {
                "ssl_context": self._tls(),
                "sasl_mechanism": MECHANISM,
                "sasl_plain_username": self.user,
                "sasl_plain_password": self.password,
            }
        return options

    def client(self, name: str) -> dict[str, Any]:
        """How aiokafka makes a client; `name` is what the brokers' logs call it."""
        return {
            "bootstrap_servers": list(self.bootstrap),
            "client_id": f"streamforge-{name}",
            "retry_backoff_ms": 100,
            **self.connection(),
        }

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Rejected(
                f"{PREFIX}KAFKA_CA_FILE is {self.ca_file}, which holds no certificate that can be read"
                f" ({error.strerror or error}); it must be a PEM file, such as /etc/streamforge/ca.pem"
            ) from error


def _password(settings: Settings) -> str:
    given, file = settings.kafka_password.get_secret_value(), settings.kafka_password_file
    if file is None:
        return given
    if given:
        raise Rejected(f"{PREFIX}KAFKA_PASSWORD and {PREFIX}KAFKA_PASSWORD_FILE are both set; keep one of them")
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(
            f"{PREFIX}KAFKA_PASSWORD_FILE is {file}, which cannot be read: {error}; name a file with the password"
        ) from error
