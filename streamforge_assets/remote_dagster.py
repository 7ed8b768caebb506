"""A running Dagster, used over its GraphQL API."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import aiohttp

from resources.errors import Rejected, Unavailable
from streamforge_assets.assets.market_data import GROUP
from streamforge_assets.partitions import SYMBOLS, market_key
from streamforge_assets.request import Request

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
_CANCEL = "mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"


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
        keys = [[GROUP, dataset.name] for dataset in request.datasets]
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

    async def cancel(self, backfill: str) -> None:
        """Ask Dagster to stop a backfill."""
        await self._ask(_CANCEL, {"id": backfill})

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
        timeout = aiohttp.ClientTimeout(total=60)
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


def _expect(found: dict[str, Any], kind: str) -> dict[str, Any]:
    if found["__typename"] != kind:
        raise Rejected(f"Dagster answers {found['__typename']}: {found.get('message', '')}")
    return found
