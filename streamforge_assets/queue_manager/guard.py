"""What stands before every route: the token, the size of a request, and the count of answers."""

from __future__ import annotations

import secrets
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resources.errors import Rejected
from resources.metrics import REQUESTS, Meter
from resources.settings import Settings
from streamforge_assets.queue_manager.problems import answer

LARGEST_BODY = 256 * 1024
SHORTEST_TOKEN = 16
OPEN_ROUTES = frozenset({"/healthz", "/readyz"})
TOO_LARGE = f"the request is larger than {LARGEST_BODY // 1024} kB; describe several workflows"


def read_token(settings: Settings) -> str | None:
    """The token that clients must show; None when the settings name no file.

    Raises:
        Rejected: the file cannot be read, or what it holds is no token.
    """
    path: Path | None = settings.api_token_file
    if path is None:
        return None
    name = "the setting STREAMFORGE_API_TOKEN_FILE names"
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise Rejected(f"{name} {path}, which cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Rejected(f"{name} {path}, which is not ASCII text") from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise Rejected(
            f"{name} {path}, which holds no token: one line of {SHORTEST_TOKEN} or more characters without blanks;"
            f" make one with: openssl rand -hex 32 > {path}"
        )
    return token


class Guard:
    """Refuses requests without the token (401) and too large ones (413) before anything reads them."""

    def __init__(self, app: ASGIApp, *, token: str | None, meter: Meter) -> None:
        self._app = app
        self._token = token.encode() if token is not None else None
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                # A method that nobody knows would make a metric of its own.
                method = scope["method"] if scope["method"] in {"GET", "POST"} else "other"
                self._meter.add(REQUESTS, 1, method, route, str(message["status"]))
            await send(message)

        headers = Headers(scope=scope)
        if scope["path"] not in OPEN_ROUTES and not self._admitted(headers.get("authorization", "")):
            refusal = answer(
                401,
                "this needs the token: send the header `Authorization: Bearer ...` with what the file of"
                " STREAMFORGE_API_TOKEN_FILE holds",
                headers={"WWW-Authenticate": 'Bearer realm="queue-manager"'},
            )
            await refusal(scope, receive, counted)
            return
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > LARGEST_BODY:
            await answer(413, TOO_LARGE)(scope, receive, counted)
            return
        await self._app(scope, _limited(receive), counted)

    def _admitted(self, header: str) -> bool:
        if self._token is None:
            return True
        scheme, _, shown = header.partition(" ")
        # In constant time: how long a refusal takes tells nothing about the token.
        right = secrets.compare_digest(shown.strip().encode(), self._token)
        return right and scheme.lower() == "bearer"


def _limited(receive: Receive) -> Receive:
    """`receive` that refuses a body which turns out larger than its headers told."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST_BODY:
            raise HTTPException(413, TOO_LARGE)
        return message

    return limited
