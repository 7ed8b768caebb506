"""What a client describes: a pipeline. Checked here as far as it can be without asking anybody."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, field_validator

from resources.datasets import INTERVALS, TRADES, candles, parse_dataset
from resources.errors import Rejected
from resources.settings import Settings
from streamforge_assets.request import Request, check_symbol_text, parse_day, parse_request

StageName = Literal["load", "store", "graph", "train"]
STAGES: tuple[StageName, ...] = get_args(StageName)

MOST_SYMBOLS = 500
MOST_PARTITIONS = 100_000

_DATASETS = [TRADES.name, *(candles(interval).name for interval in INTERVALS)]
_DAY_TEXT = {"format": "date", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
_SYMBOL_TEXT = {"pattern": "^[A-Z0-9]*[A-Z][A-Z0-9]*$", "minLength": 2, "maxLength": 20}


def _symbol(text: str) -> str:
    try:
        check_symbol_text(text)
    except Rejected as error:
        raise ValueError(str(error)) from error
    return text


def _dataset(text: str) -> str:
    try:
        parse_dataset(text)
    except Rejected as error:
        raise ValueError(str(error)) from error
    return text


def _day(text: str) -> str:
    try:
        if parse_day(text).isoformat() != text:
            raise Rejected(f"{text!r} is not a day; write it as 2024-08-01")
    except Rejected as error:
        raise ValueError(str(error)) from error
    return text


Symbol = Annotated[str, AfterValidator(_symbol), Field(json_schema_extra={**_SYMBOL_TEXT})]
DatasetName = Annotated[str, AfterValidator(_dataset), Field(json_schema_extra={"enum": [*_DATASETS]})]
Day = Annotated[str, AfterValidator(_day), Field(json_schema_extra={**_DAY_TEXT})]


class Description(BaseModel):
    """A whole pipeline: market data of symbols over days, and what is made of them."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "symbols": ["BTCUSDT", "ETHUSDT"],
                    "datasets": ["trades", "candles_5m"],
                    "start": "2024-08-01",
                    "end": "2024-08-31",
                }
            ]
        },
    )

    symbols: Annotated[tuple[Symbol, ...], Field(min_length=1, max_length=MOST_SYMBOLS)] = Field(
        description="as the exchange writes them"
    )
    datasets: Annotated[tuple[DatasetName, ...], Field(min_length=1, max_length=len(_DATASETS))] = Field(
        (), description="trades, or candles of an interval; left out: trades and the candles models are made from"
    )
    start: Day = Field(description="the first day, UTC")
    end: Day = Field(description="the day after the last, UTC")
    stages: Annotated[tuple[StageName, ...], Field(min_length=1, max_length=len(STAGES))] = Field(
        STAGES,
        description="load: workers bring the data into the store; store: the ledger proves every day complete;"
        " graph: features and asset graphs; train: models and forecasts. Always done in this order",
    )
    folds: StrictInt = Field(
        7, ge=0, le=366, description="last days to forecast, each by the model of the day before"
    )
    refresh: StrictBool = Field(default=False, description="load anew what the exchange has published again")
    tolerate_gaps: StrictBool = Field(
        default=False, description="go on when days of some symbols could not be loaded completely"
    )

    @field_validator("symbols", "datasets")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("stages")
    @classmethod
    def _in_order(cls, value: tuple[StageName, ...]) -> tuple[StageName, ...]:
        return tuple(name for name in STAGES if name in value)

    def completed(self, settings: Settings) -> Description:
        """The same description with what was left out."""
        usual = (TRADES.name, candles(settings.feature_interval).name)
        return self if self.datasets else self.model_copy(update={"datasets": usual})

    def request(self, settings: Settings) -> Request:
        """The market data that are asked for.

        Raises:
            Rejected: for days that are no partitions, more partitions than one pipeline may have, or datasets
                that lack the candles which its later stages are made of.
        """
        request = parse_request(self.datasets, self.symbols, self.start, self.end, settings)
        count = len(request.days) * len(request.symbols) * len(request.datasets)
        if count > MOST_PARTITIONS:
            raise Rejected(
                f"these are {count:,} partitions (days x symbols x datasets), and one workflow may have"
                f" {MOST_PARTITIONS:,}; describe several"
            )
        needed = candles(settings.feature_interval).name
        models = {"graph", "train"} & set(self.stages)
        if "load" in self.stages and models and needed not in self.datasets:
            raise Rejected(
                f"the stages graph and train are made of {needed}, which datasets do not name; add it, or leave"
                f" {' and '.join(sorted(models))} out"
            )
        return request
