"""What one worker is asked to do, as its environment variables say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from resources.datasets import Dataset, Partition, days, parse_dataset
from resources.errors import Rejected
from resources.messages import parse_time_range, time_range


@dataclass(frozen=True, slots=True)
class Job:
    """One worker's task: a dataset of one symbol over the days [start, end).

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
            "KAFKA_TOPIC": self.topic,
            "COLLECTION_NAME": self.collection,
            "ATTEMPT": str(self.attempt),
            "REFRESH": "1" if self.refresh else "0",
            "FENCE": str(self.fence),
        }


def read_job(environment: Mapping[str, str]) -> Job:
    """The job that `environment` describes.

    Raises:
        Rejected: naming the variable that is missing or wrong.
    """
    try:
        start, end = parse_time_range(environment["TIME_RANGE"])
        return Job(
            queue_id=environment["QUEUE_ID"],
            target=environment["TARGET"],
            telemetry_id=environment["TELEMETRY_ID"],
            dataset=parse_dataset(environment["TYPE"].removeprefix("api_")),
            symbol=environment["SYMBOL"],
            start=start,
            end=end,
            topic=environment["KAFKA_TOPIC"],
            collection=environment.get("COLLECTION_NAME", ""),
            attempt=int(environment.get("ATTEMPT", "1")),
            refresh=environment.get("REFRESH", "0") == "1",
            fence=int(environment.get("FENCE", "0")),
        )
    except KeyError as error:
        raise Rejected(f"the worker's environment lacks the variable {error.args[0]}") from error
    except ValueError as error:
        raise Rejected(f"the worker's variables ATTEMPT and FENCE must be numbers: {error}") from error
