"""A running Dagster, used over its GraphQL API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import aiohttp

from resources.errors import Rejected, Unavailable
from streamforge_assets.assets.market_data import BACKFILL_TAG
from streamforge_assets.partitions import MARKET, SYMBOLS, market_key
from streamforge_assets.request import Request
from streamforge_assets.run_cause import run_cause

log = logging.getLogger("streamforge.client")

POLL = 2.0
ENDED = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}

_LOCATIONS = """query { repositoriesOrError { __typename ... on RepositoryConnection {
  nodes { name location { name } assetNodes { assetKey { path } } } } } }"""
_ADD = """mutation($name: String!, $key: String!, $repository: RepositorySelector!) {
  addDynamicPartition(partitionsDefName: $name, partitionKey: $key, repositorySelector: $repository) {
    __typename ... on UnauthorizedError { message } ... on PythonError { message } } }"""
_LAUNCH = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  ... on PartitionKeysNotFoundError { message } ... on UnauthorizedError { message } } }"""
_POLL = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename
  ... on PythonError { message } ... on BackfillNotFoundError { message }
  ... on PartitionBackfill { status error { message }
    assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
      assetKey { path } numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed } } } } } }"""
_CANCEL = """mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) {
  __typename ... on PythonError { message } ... on UnauthorizedError { message } } }"""
_RUNS = """query($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 1000) { __typename
  ... on Runs { results { runId } } ... on PythonError { message } } }"""
_WHY = """query($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 1) { __typename
  ... on PythonError { message }
  ... on Runs { results { runId eventConnection { events { __typename
    ... on ExecutionStepFailureEvent { failureMetadata { description } error { message causes { message } } }
    ... on EngineEvent { message } ... on RunFailureEvent { message } } } } } } }"""
_TERMINATE = "mutation($ids: [String!]!) { terminateRuns(runIds: $ids) { __typename } }"
_LIVE = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED"]
_FIND = """query($limit: Int!, $filters: BulkActionsFilter!) {
  partitionBackfillsOrError(limit: $limit, filters: $filters) { __typename ... on PythonError { message }
  ... on PartitionBackfills { results { id tags { key value } } } } }"""
_VERSION = "query { version }"
_TIMEOUT = 60.0
_SEARCHED = 500
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Target:
    """Days [first, last] of one asset, of `symbols` where it is market data."""

    asset: tuple[str, ...]
    first: date
    last: date
    symbols: tuple[str, ...] = ()

    @property
    def ranges(self) -> list[dict[str, str]]:
        """Its partitions as ranges of Dagster's keys."""
        if not self.symbols:
            return [{"start": self.first.isoformat(), "end": self.last.isoformat()}]
        return [
            {"start": market_key(self.first, symbol), "end": market_key(self.last, symbol)}
            for symbol in self.symbols
        ]


@dataclass(frozen=True, slots=True)
class RemoteProgress:
    """How far a backfill is, in partitions of all its assets."""

    status: str
    targeted: int
    materialized: int
    failed: int
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ENDED


class RemoteDagster:
    """One Dagster webserver. Raises Unavailable when it does not answer, Rejected when it refuses."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    async def launch(self, request: Request, *, refresh: bool, accepted_by: str) -> str:
        """Launch an asset backfill of the request; returns its id."""
        keys = [[MARKET, dataset.name] for dataset in request.datasets]
        repository = await self._repository(keys)
        for symbol in request.symbols:
            await self._add_symbol(symbol, repository)
        config = {"config": {"refresh": refresh, "accept_gaps_by": accepted_by}}
        params = {
            "assetSelection": [{"path": key} for key in keys],
            "partitionNames": [market_key(day, symbol) for symbol in request.symbols for day in request.days],
            "title": f"streamforge {', '.join(request.symbols)} {request.start} to {request.end}"[:100],
            "runConfigData": {"ops": {"__".join(key): config for key in keys}},
        }
        answer = await self._ask(_LAUNCH, {"params": params})
        return str(_expect(answer["launchPartitionBackfill"], "LaunchBackfillSuccess")["backfillId"])

    async def progress(self, backfill: str) -> RemoteProgress:
        """How far a backfill is."""
        answer = await self._ask(_POLL, {"id": backfill})
        found = _expect(answer["partitionBackfillOrError"], "PartitionBackfill")
        counts = (found["assetBackfillData"] or {}).get("assetBackfillStatuses", [])
        return RemoteProgress(
            status=found["status"],
            targeted=sum(c.get("numPartitionsTargeted", 0) for c in counts),
            materialized=sum(c.get("numPartitionsMaterialized", 0) for c in counts),
            failed=sum(c.get("numPartitionsFailed", 0) for c in counts),
            error=(found["error"] or {}).get("message", ""),
        )

    async def cause(self, backfill: str) -> str:
        """Why the newest failed run of a backfill failed, in a sentence; empty without one."""
        tags = [{"key": BACKFILL_TAG, "value": backfill}]
        answer = await self._ask(_WHY, {"filter": {"tags": tags, "statuses": ["FAILURE"]}})
        found = _expect(answer["runsOrError"], "Runs")["results"]
        return failure_in(found[0]["eventConnection"]["events"]) if found else ""

    async def cancel(self, backfill: str) -> None:
        """Ask Dagster to stop a backfill and its runs. It has ended once its progress says so."""
        answer = await self._ask(_CANCEL, {"id": backfill})
        _expect(answer["cancelPartitionBackfill"], "CancelBackfillSuccess")
        # The daemon would terminate them too, but looks after backfills every 30 seconds only.
        tags = [{"key": BACKFILL_TAG, "value": backfill}]
        answer = await self._ask(_RUNS, {"filter": {"tags": tags, "statuses": _LIVE}})
        if ids := [run["runId"] for run in _expect(answer["runsOrError"], "Runs")["results"]]:
            await self._ask(_TERMINATE, {"ids": ids})

    async def check(self, assets: Sequence[tuple[str, ...]] = (), *, timeout: float = 10.0) -> None:
        """Return if Dagster answers and has `assets`; raise as every call does if not."""
        try:
            async with asyncio.timeout(timeout):
                await self._ask(_VERSION, {})
                if assets:
                    await self._repository([list(asset) for asset in assets])
        except TimeoutError as error:
            raise Unavailable(f"the Dagster at {self.url} does not answer within {timeout:g} s") from error

    async def launch_targets(
        self, targets: Sequence[Target], *, title: str, tags: Mapping[str, str], config: Mapping[str, object]
    ) -> str:
        """Launch one asset backfill of all targets; returns its id. Dagster makes what depends on another later.

        Args:
            targets: what to make. Symbols that Dagster does not know are added first.
            title: shown in Dagster's list of backfills; cut where it is too long.
            tags: by which `find` finds it again, and its runs.
            config: of every market asset among the targets.
        """
        repository = await self._repository([list(target.asset) for target in targets])
        for symbol in dict.fromkeys(symbol for target in targets for symbol in target.symbols):
            await self._add_symbol(symbol, repository)
        ops = {"__".join(target.asset): {"config": dict(config)} for target in targets if target.symbols}
        params = {
            "partitionsByAssets": [
                {"assetKey": {"path": list(target.asset)}, "partitions": {"ranges": target.ranges}}
                for target in targets
            ],
            "title": title[:100],
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
            "runConfigData": {"ops": ops},
        }
        answer = await self._ask(_LAUNCH, {"params": params})
        return str(_expect(answer["launchPartitionBackfill"], "LaunchBackfillSuccess")["backfillId"])

    async def find(self, tags: Mapping[str, str], *, since: datetime) -> str | None:
        """The id of the newest backfill that carries `tags` and was launched after `since`; None without one."""
        filters = {"createdAfter": (since - _SKEW).timestamp()}
        answer = await self._ask(_FIND, {"limit": _SEARCHED, "filters": filters})
        for found in _expect(answer["partitionBackfillsOrError"], "PartitionBackfills")["results"]:
            if tags.items() <= {tag["key"]: tag["value"] for tag in found["tags"]}.items():
                return str(found["id"])
        return None

    async def _repository(self, keys: list[list[str]]) -> dict[str, str]:
        answer = await self._ask(_LOCATIONS, {})
        nodes = answer["repositoriesOrError"].get("nodes", [])
        absent = keys
        for node in nodes:
            known = [asset["assetKey"]["path"] for asset in node["assetNodes"]]
            absent = [key for key in keys if key not in known]
            if not absent:
                return {"repositoryName": node["name"], "repositoryLocationName": node["location"]["name"]}
        names = ", ".join("/".join(key) for key in absent)
        raise Rejected(
            f"the Dagster at {self.url} has no asset {names}; for more candle intervals set "
            "STREAMFORGE_INTERVALS where it runs"
        )

    async def _add_symbol(self, symbol: str, repository: dict[str, str]) -> None:
        variables = {"name": SYMBOLS.name, "key": symbol, "repository": repository}
        added = (await self._ask(_ADD, variables))["addDynamicPartition"]
        if added["__typename"] not in {"AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError"}:
            raise Rejected(f"Dagster does not add the symbol {symbol}: {added.get('message', added)}")

    async def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(f"{self.url}/graphql", json={"query": query, "variables": variables}) as response,
            ):
                answer = await response.json()
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise Unavailable(
                f"no Dagster answers at {self.url} ({error}); start one with `streamforge ui`"
            ) from error
        if not isinstance(answer, dict) or not (answer.get("errors") or isinstance(answer.get("data"), dict)):
            raise Rejected(f"what answers at {self.url} is no Dagster; give the address of its web UI")
        if answer.get("errors"):
            raise Rejected(f"Dagster refuses the request: {answer['errors'][0].get('message')}")
        data: dict[str, Any] = answer["data"]
        return data


def failure_in(events: Sequence[Mapping[str, Any]]) -> str:
    """Why a run failed, by its events, the oldest first: the sentence of its step, or what ended it."""
    engine = ""
    for event in events:
        kind = event["__typename"]
        if kind == "ExecutionStepFailureEvent":
            error = event["error"] or {}
            last = (error.get("causes") or [error])[-1]
            told = (event["failureMetadata"] or {}).get("description") or last.get("message")
            if told:
                return str(told).strip()
        elif kind == "EngineEvent":
            engine = event["message"]
        elif kind == "RunFailureEvent":
            return run_cause(event["message"], engine)
    return ""


def _expect(found: dict[str, Any], kind: str) -> dict[str, Any]:
    if found["__typename"] != kind:
        raise Rejected(f"Dagster answers {found['__typename']}: {found.get('message', '')}")
    return found
