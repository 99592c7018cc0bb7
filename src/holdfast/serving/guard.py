"""Who may ask at all: the key, and the name by which the server was called."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from holdfast.serving.failures import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
OPEN_PATHS = ("/health",)
"""What says nothing about anybody."""


class Guard:
    """Lets requests through to an application.

    Args:
        app: The application.
        key: What clients must show; "" for nothing, where only this machine can reach the server. Then it must be
            called by a loopback name: a web page that points a name of its own at this machine is not answered.

    Attributes:
        is_closing: Whether nothing new is taken any more.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.key, self.is_closing = app, key, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._find_objection(scope)):
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            await JSONResponse(error.to_json(), error.status, headers)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _find_objection(self, scope: Scope) -> ApiError | None:
        if self.is_closing:
            return ApiError(503, "this server is being shut down", code="shutting_down")
        if scope["path"] in OPEN_PATHS:
            return None
        headers = Headers(scope=scope)
        if not self.key:
            host = headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name.lower() not in LOOPBACK_NAMES:
                return ApiError(403, "without a key this server answers to localhost only", code="wrong_host")
            return None
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.key.encode()):
            what = "the key is missing or wrong: send it as Authorization: Bearer KEY"
            return ApiError(401, what, code="invalid_api_key")
        return None
