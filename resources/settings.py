"""One typed settings object for everything: environment variables `STREAMFORGE_*`, or a `.env` file.

A wrong value is one sentence that names the variable, what it must be and an example.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from resources.datasets import INTERVALS, TRADES, Dataset, candles
from resources.errors import Rejected

BusKind = Literal["embedded", "kafka"]
KafkaSecurity = Literal["PLAINTEXT", "SASL_SSL"]
StoreKind = Literal["lake"]
ArtifactsKind = Literal["local"]
LauncherKind = Literal["inline", "process"]
ExchangeKind = Literal["simulated", "binance"]
TrainerKind = Literal["inline", "process"]
DeviceKind = Literal["cpu", "cuda"]

PREFIX = "STREAMFORGE_"

_ADDRESSES = {
    "simulated": ("http://127.0.0.1:8650", "http://127.0.0.1:8650/archive"),
    "binance": ("https://api.binance.com", "https://data.binance.vision"),
}
_FIRST_DAY = {"simulated": date(2024, 1, 1), "binance": date(2017, 8, 17)}


class Settings(BaseSettings):
    """Every setting, with its default. The README's table is made from the descriptions."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    home: Path = Field(Path(".streamforge"), description="folder of all embedded state, such as /data/sf")
    exchange: ExchangeKind = Field("simulated", description="where market data come from")
    rest_url: str = Field("", description="base URL of the exchange's REST API; empty: the exchange's own")
    archive_url: str = Field("", description="base URL (http, https or file) of the exchange's archive")
    bus: BusKind = Field("embedded", description="what carries messages between the parts")
    kafka_bootstrap: str = Field(
        "127.0.0.1:9092", description="brokers to begin with, such as kafka-0:9092,kafka-1:9092"
    )
    kafka_security: KafkaSecurity = Field(
        "PLAINTEXT", description="PLAINTEXT, or SASL_SSL: TLS, and a user with SCRAM-SHA-512"
    )
    kafka_user: str = Field("", description="user at the brokers, for SASL_SSL")
    kafka_password: SecretStr = Field(SecretStr(""), description="the user's password")
    kafka_password_file: Path | None = Field(
        None, description="file with the password instead, such as /run/secrets/kafka-password"
    )
    kafka_ca_file: Path | None = Field(
        None, description="authority that signed the brokers' certificates (PEM); empty: the system's"
    )
    kafka_patience: float = Field(
        60.0, gt=0, description="seconds that a call waits for brokers that do not answer"
    )
    store: StoreKind = Field("lake", description="where records are kept")
    artifacts: ArtifactsKind = Field("local", description="where files are kept")
    launcher: LauncherKind = Field("inline", description="what starts the workers")
    intervals: Annotated[tuple[str, ...], NoDecode] = Field(
        ("5m",), description="candle intervals that become assets, such as 1m,5m"
    )
    start_date: date | None = Field(
        None, description="first day of the partitions; empty: the exchange's first day"
    )
    connections: int = Field(8, ge=1, le=64, description="HTTP connections open at once")
    downloads: int = Field(4, ge=1, le=32, description="archive files fetched ahead for one workflow")
    weight_share: float = Field(
        0.95, gt=0, le=1, description="share of the exchange's request weight that may be used"
    )
    request_timeout: float = Field(20.0, gt=0, description="seconds before a silent HTTP request is given up")
    request_attempts: int = Field(5, ge=1, le=20, description="tries of one HTTP request")
    silence_limit: float = Field(30.0, gt=0, description="seconds without an event before a worker is restarted")
    stall_limit: float = Field(
        900.0,
        gt=0,
        description="seconds that one step of a worker may take before the worker is restarted",
    )
    start_limit: float = Field(60.0, gt=0, description="seconds within which a started worker must send an event")
    worker_attempts: int = Field(
        3, ge=1, le=20, description="starts of one worker in a row that may bring no day before its workflow fails"
    )
    workflows: int = Field(2, ge=1, le=32, description="workflows of one run that work at the same time")
    collection_template: str = Field(
        "{symbol}_{type}_{start}", description="name of a workflow's collection: symbol, type, start, end"
    )
    model_interval: str = Field(
        "", description="candle interval that features and models are made from; empty: the first of the intervals"
    )
    model_window: int = Field(
        21, ge=2, le=400, description="days of features that a graph or a model is made from, its own day the last"
    )
    model_coverage: float = Field(
        0.95, gt=0, le=1, description="share of the window's bars that a symbol of a graph or model must have"
    )
    model_lags: int = Field(1, ge=1, le=12, description="bars by which a leader may precede its follower")
    model_seed: int = Field(1, ge=0, description="seed of everything random in training")
    api_token_file: Path | None = Field(
        None, description="file with the token that clients of the queue-manager must show; empty: none is asked"
    )
    trainer: TrainerKind = Field("inline", description="where models are trained: in this process or in their own")
    device: DeviceKind = Field("cpu", description="what models are trained on")
    threads: int = Field(1, ge=1, le=256, description="threads of one graph or training; no more than cores")
    simulator_symbols: int = Field(12, ge=1, le=500, description="symbols of the simulated exchange")
    simulator_seed: int = Field(7, ge=0, description="seed of the simulated market")

    @field_validator("rest_url", "archive_url")
    @classmethod
    def _known_scheme(cls, value: str, info: ValidationInfo) -> str:
        schemes = ("http", "https", "file") if info.field_name == "archive_url" else ("http", "https")
        if value and not value.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    @field_validator("kafka_bootstrap")
    @classmethod
    def _brokers(cls, value: str) -> str:
        for address in value.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{address.strip()!r} is not host:port")
        return value

    @field_validator("intervals", mode="before")
    @classmethod
    def _split_intervals(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("intervals")
    @classmethod
    def _known_intervals(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for interval in value:
            if interval not in INTERVALS:
                raise ValueError(f"{interval!r} is none of {', '.join(INTERVALS)}")
        return tuple(dict.fromkeys(value))

    @field_validator("model_interval")
    @classmethod
    def _model_interval_is_known(cls, value: str) -> str:
        if value and value not in INTERVALS:
            raise ValueError(f"{value!r} is none of {', '.join(INTERVALS)}")
        return value

    @property
    def feature_interval(self) -> str:
        """The candle interval that features and models are made from."""
        return self.model_interval or self.intervals[0]

    @property
    def market_datasets(self) -> tuple[Dataset, ...]:
        """What is collected, as assets: trades, and the candles of every interval that assets or models need."""
        return (TRADES, *(candles(name) for name in dict.fromkeys((*self.intervals, self.feature_interval))))

    @property
    def rest_address(self) -> str:
        """Base URL of the REST API in use, without a final slash."""
        return (self.rest_url or _ADDRESSES[self.exchange][0]).rstrip("/")

    @property
    def archive_address(self) -> str:
        """Base URL of the archive in use, without a final slash."""
        return (self.archive_url or _ADDRESSES[self.exchange][1]).rstrip("/")

    @property
    def first_day(self) -> date:
        """The first day that can be a partition."""
        return self.start_date or _FIRST_DAY[self.exchange]

    def environment(self) -> dict[str, str]:
        """The variables that give another process, in any folder, the same settings. Secrets stand in clear."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        values["home"] = self.home.absolute()
        return {f"{PREFIX}{name.upper()}": _text(value) for name, value in values.items() if value is not None}


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment, `.env`, and `overrides`, which win.

    Raises:
        Rejected: naming the first wrong variable, what it must be, and an example.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates what it is given
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        field = Settings.model_fields.get(name)
        example = "" if field is None or field.default in (None, "") else f"; for example {_shown(field.default)}"
        given = first.get("input")
        raise Rejected(
            f"the setting {PREFIX}{name.upper()} is {given!r}, which is wrong: {first['msg']}{example}"
        ) from error


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else _shown(value)


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
