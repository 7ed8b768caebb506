"""What one worker is asked to do, as its environment variables say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from resources.datasets import Dataset, Partition, days, parse_dataset
from resources.errors import Rejected
from resources.messages import parse_time_range, time_range

MAX_TOPICS: Final = 16
"""Topics that one connector serves at most: of each it may hold some 20 MB at a time."""


@dataclass(frozen=True, slots=True)
class Route:
    """A topic, and the collection that its rows go to."""

    topic: str
    collection: str


@dataclass(frozen=True, slots=True)
class Job:
    """One worker's task: a dataset of one symbol over the days [start, end).

    A connector may have `more_routes` than that of `topic` and `collection`, for any datasets and symbols; then
    `dataset` and `symbol` only name it in what it says of itself.

    `attempt` counts the starts of this kind of worker in the workflow, from 1. A connector ignores data of
    loaders older than `fence`, which were replaced before it was started. With `refresh`, days that are stored
    already are compared with their source and loaded anew if that has changed.
    """

    queue_id: str
    target: str
    telemetry_id: str
    dataset: Dataset
    symbol: str
    start: date
    end: date
    topic: str
    collection: str
    attempt: int = 1
    refresh: bool = False
    fence: int = 0
    more_routes: tuple[Route, ...] = ()

    @property
    def routes(self) -> tuple[Route, ...]:
        """All topics of the job, each with its collection."""
        return (Route(self.topic, self.collection), *self.more_routes)

    @property
    def partitions(self) -> list[Partition]:
        """The partitions of the job, by day."""
        return [Partition(self.dataset.name, self.symbol, day) for day in days(self.start, self.end)]

    @property
    def connector_group(self) -> str:
        """The consumer group that every connector of the workflow shares, one after another."""
        return f"{self.queue_id}-connector"

    def environment(self) -> dict[str, str]:
        """The variables that a worker's process is started with."""
        return {
            "QUEUE_ID": self.queue_id,
            "TARGET": self.target,
            "TELEMETRY_ID": self.telemetry_id,
            "TYPE": self.dataset.api_type,
            "SYMBOL": self.symbol,
            "TIME_RANGE": time_range(self.start, self.end),
            "KAFKA_TOPIC": ",".join(route.topic for route in self.routes),
            "COLLECTION_NAME": ",".join(route.collection for route in self.routes),
            "ATTEMPT": str(self.attempt),
            "REFRESH": "1" if self.refresh else "0",
            "FENCE": str(self.fence),
        }


def parse_routes(topics: str, collections: str) -> list[Route]:
    """The routes that KAFKA_TOPIC and COLLECTION_NAME describe: lists of equal length, separated by commas.

    Several topics may share a collection. A single topic needs none.

    Raises:
        Rejected: naming the variable that is wrong.
    """
    names = _names("KAFKA_TOPIC", topics)
    if doubled := [name for name, times in Counter(names).items() if times > 1]:
        raise Rejected(f"the worker's variable KAFKA_TOPIC names {doubled[0]} twice; a topic is read once")
    if len(names) > MAX_TOPICS:
        raise Rejected(
            f"the worker's variable KAFKA_TOPIC names {len(names)} topics; one connector serves {MAX_TOPICS}, so"
            " start another one for the rest"
        )
    if len(names) == 1 and not collections.strip():
        return [Route(names[0], "")]
    into = _names("COLLECTION_NAME", collections)
    if len(into) != len(names):
        raise Rejected(
            f"the worker's variable COLLECTION_NAME names {len(into)} and KAFKA_TOPIC {len(names)}; name one"
            " collection for each topic, such as trades,candles"
        )
    return [Route(topic, collection) for topic, collection in zip(names, into, strict=True)]


def _names(variable: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise Rejected(
            f"the worker's variable {variable} is {text!r}; it must be a name, or names separated by commas"
        )
    return names


def read_job(environment: Mapping[str, str]) -> Job:
    """The job that `environment` describes.

    Raises:
        Rejected: naming the variable that is missing or wrong.
    """
    try:
        start, end = parse_time_range(environment["TIME_RANGE"])
        first, *more = parse_routes(environment["KAFKA_TOPIC"], environment.get("COLLECTION_NAME", ""))
        return Job(
            queue_id=environment["QUEUE_ID"],
            target=environment["TARGET"],
            telemetry_id=environment["TELEMETRY_ID"],
            dataset=parse_dataset(environment["TYPE"].removeprefix("api_")),
            symbol=environment["SYMBOL"],
            start=start,
            end=end,
            topic=first.topic,
            collection=first.collection,
            more_routes=tuple(more),
            attempt=int(environment.get("ATTEMPT", "1")),
            refresh=environment.get("REFRESH", "0") == "1",
            fence=int(environment.get("FENCE", "0")),
        )
    except KeyError as error:
        raise Rejected(f"the worker's environment lacks the variable {error.args[0]}") from error
    except ValueError as error:
        raise Rejected(f"the worker's variables ATTEMPT and FENCE must be numbers: {error}") from error
