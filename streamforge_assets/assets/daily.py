"""Assets of one partition a day: make each day of a run, tell Dagster what became of it, go on after a bad one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg

from resources.errors import StreamForgeError

BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=31)
"""A month in one run: neighbouring days share most of what they read. One policy, so that assets share runs."""


@dataclass(frozen=True, slots=True)
class Made:
    """One day that was made: its metadata, and for each check that failed a sentence."""

    metadata: Mapping[str, Any]
    findings: Mapping[str, str] = field(default_factory=dict)


def check_specs(key: dg.AssetKey, texts: Mapping[str, str]) -> list[dg.AssetCheckSpec]:
    """The checks that travel with the materialisation of `key`, with what each of them says."""
    return [dg.AssetCheckSpec(name, asset=key, description=text) for name, text in texts.items()]


def make_days(
    context: dg.AssetExecutionContext, checks: Mapping[str, str], make: Callable[[date], Made]
) -> Iterator[dg.AssetCheckResult]:
    """Call `make` for every day of the run; log its materialisation; yield the checks, warnings where they fail.

    As with market data the step has no output: each day is materialised by itself, and one that cannot be made
    takes no other with it.

    Raises:
        dg.Failure: when days could not be made. Those that could are recorded first.
    """
    made: dict[str, Made] = {}
    failed: dict[str, str] = {}
    for key in context.partition_keys:
        try:
            made[key] = make(date.fromisoformat(key))
        except StreamForgeError as error:
            failed[key] = str(error)
        else:
            metadata = made[key].metadata
            context.log_event(dg.AssetMaterialization(context.asset_key, metadata=metadata, partition=key))
    if made:
        yield from (_check(name, made) for name in checks)
    if failed:
        first = "; ".join(f"{key}: {sentence}" for key, sentence in list(failed.items())[:3])
        raise dg.Failure(
            description=f"{len(failed)} of {len(failed) + len(made)} days could not be made; {first}",
            metadata=dict(list(failed.items())[:50]),
            allow_retries=False,
        )


def _check(name: str, made: Mapping[str, Made]) -> dg.AssetCheckResult:
    found = {key: item.findings[name] for key, item in made.items() if name in item.findings}
    keys = list(made)
    metadata: dict[str, Any] = {"partitions": f"{keys[0]} to {keys[-1]}", "partitions_failed": len(found)}
    return dg.AssetCheckResult(
        passed=not found,
        check_name=name,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata | dict(list(found.items())[:20]),
    )


def trailing(length: int) -> dg.TimeWindowPartitionMapping:
    """A day depends on the `length` days that end with it. Days before the first partition are not asked for."""
    return dg.TimeWindowPartitionMapping(start_offset=1 - length, allow_nonexistent_upstream_partitions=True)


def the_day_before() -> dg.TimeWindowPartitionMapping:
    """A day depends on the day before it."""
    return dg.TimeWindowPartitionMapping(
        start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True
    )
