"""Errors as clients get them: problem details of RFC 9457, one clear sentence each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from resources.errors import Rejected, StreamForgeError, Unavailable
from streamforge_assets.queue_manager.manager import Over, Unknown

log = logging.getLogger("streamforge.queue_manager")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "5"
MOST_ERRORS = 20

_MEANINGS = {
    400: "the body cannot be read",
    401: "the token is missing or wrong",
    404: "there is no such workflow",
    409: "the workflow is over",
    413: "the request is too large",
    422: "the request is not valid, or cannot be met",
    503: "Dagster or the store does not answer, or too much is going on; try again later",
}


class FieldError(BaseModel):
    """What is wrong with one part of a request."""

    pointer: str = Field(description="where: `#/symbols/0` in the body, or the name of a parameter")
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str = Field(description="the meaning of the status")
    status: int
    detail: str = Field(description="one sentence: what is wrong and what to do")
    errors: list[FieldError] | None = Field(None, description="each fault of a request that is not valid")


def documented(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The part of the OpenAPI document that says which problems a route may answer with."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {code: {"description": _MEANINGS[code], "content": {MEDIA_TYPE: {"schema": schema}}} for code in codes}


def answer(
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A response that tells a problem."""
    problem = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors) if errors else None
    )
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def told(error: StreamForgeError) -> JSONResponse:
    """The response for an error of ours."""
    if isinstance(error, Unknown):
        return answer(404, str(error))
    if isinstance(error, Over):
        return answer(409, str(error))
    if isinstance(error, Rejected):
        return answer(422, str(error))
    if isinstance(error, Unavailable):
        return answer(503, str(error), headers={"Retry-After": RETRY_AFTER})
    return answer(500, str(error))


def tell_problems(app: FastAPI) -> None:
    """Have every error of `app` answered with a problem."""

    @app.exception_handler(StreamForgeError)
    async def ours(_: Request, error: StreamForgeError) -> JSONResponse:
        return told(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = [_field_error(fault) for fault in error.errors()]
        # A list whose only item is wrong counts as empty, too; that says nothing new.
        parents = {fault.pointer.rpartition("/")[0] for fault in found}
        faults = [fault for fault in found if fault.pointer not in parents][:MOST_ERRORS] or found[:1]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return answer(422, f"{faults[0].pointer}: {faults[0].detail}{more}", errors=faults)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        details = {
            400: "the body cannot be read; it must be JSON in UTF-8",
            404: f"there is no {request.url.path[:100]}; the routes are in /openapi.json",
            405: f"{request.url.path[:100]} does not understand {request.method[:20]}",
        }
        return answer(error.status_code, details.get(error.status_code, error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(500, "the queue-manager failed; its log says why")


def _field_error(fault: Mapping[str, Any]) -> FieldError:
    place, *path = [str(part) for part in fault["loc"]]
    context = fault.get("ctx") or {}
    if fault["type"] == "json_invalid":
        return FieldError(
            pointer="#", detail=f"the body is not JSON: {context.get('error')} at character {path[0]}"
        )
    usual = {
        "missing": "it is missing",
        "extra_forbidden": "there is no such field",
        "too_short": f"it must have at least {context.get('min_length')} item",
        "too_long": f"it may have {context.get('max_length')} items at most",
    }
    sentence = usual.get(fault["type"], str(fault["msg"]).removeprefix("Value error, "))
    pointer = "#" + "".join(f"/{part}" for part in path) if place == "body" else "/".join(path)
    return FieldError(pointer=pointer, detail=sentence[:1].lower() + sentence[1:])
