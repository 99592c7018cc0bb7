"""Who may ask: the name the board was called by, the token, where a form comes from, and what every answer carries."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from holdfast.board.refusal import Refusal
from holdfast.board.texts import Texts, choose_language

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
COOKIE = "holdfast_board"
SESSION = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{64})")
OPEN_PATHS = ("/login", "/static/")
"""What those see who have shown no token yet."""
LARGEST_BODY = 1 << 20
MOST_FIELDS = 2_000
BODY_SECONDS = 30.0
"""Time to send a whole body in."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Sessions:
    """Sessions of browsers: nothing is kept of them, what they show is signed.

    Args:
        token: What a reader must show first; "" where only this machine can reach the board.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        # With a token sessions outlive the program; without one a page of an earlier program is loaded anew.
        self._key = hashlib.sha256(token.encode()).digest() if token else secrets.token_bytes(32)

    def _sign_text(self, what: str) -> str:
        return hmac.new(self._key, what.encode(), hashlib.sha256).hexdigest()

    def begin_session(self) -> str:
        """The cookie of a new session."""
        name = secrets.token_hex(16)
        return f"{name}.{self._sign_text(f'session {name}')}"

    def is_session(self, cookie: str) -> bool:
        """Whether a cookie is one of `begin_session`."""
        match = SESSION.fullmatch(cookie)
        return bool(match) and hmac.compare_digest(match[2], self._sign_text(f"session {match[1]}"))  # type: ignore[index]

    def is_token(self, text: str) -> bool:
        """Whether a text is the token."""
        return bool(self.token) and hmac.compare_digest(text.encode(), self.token.encode())

    def form_key(self, cookie: str) -> str:
        """What the forms of a session carry, so that no other page can send them."""
        return self._sign_text(f"form {cookie}")


class FrontDoor:
    """Lets requests through to an application, and puts the rules for browsers on every answer.

    Args:
        app: The application.
        sessions: Who may ask.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self.app, self.sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        is_known = self.sessions.is_session(cookie)
        objection = self._find_objection(scope, headers, is_known=is_known)
        begins = not is_known and not self.sessions.token and objection is None
        scope["session_cookie"] = self.sessions.begin_session() if begins else cookie

        async def send_with_rules(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in {"Content-Security-Policy": POLICY, **HEADERS}.items():
                    answer.setdefault(name, value)
                if begins:
                    answer.append("Set-Cookie", format_cookie(COOKIE, scope["session_cookie"]))
            await send(message)

        await (objection or self.app)(scope, receive, send_with_rules)

    def _find_objection(self, scope: Scope, headers: Headers, *, is_known: bool) -> Response | None:
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not self.sessions.token and name.lower() not in LOOPBACK_NAMES:
            return _refuse_plainly(headers, "door_name", 403)
        if scope["method"] not in ("GET", "HEAD") and not _is_own_page(headers, host):
            return _refuse_plainly(headers, "door_site", 403)
        if not self.sessions.token or is_known or scope["path"].startswith(OPEN_PATHS):
            return None
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.sessions.is_token(token.strip()):
            return None
        if scope["method"] == "GET" and "hx-request" not in headers:
            return RedirectResponse(f"/login?next={quote(scope['path'])}", 303)
        return _refuse_plainly(headers, "door_token", 401, {"WWW-Authenticate": "Bearer"})


def _refuse_plainly(headers: Headers, key: str, status: int, more: Mapping[str, str] | None = None) -> Response:
    """A text in the reader's language, before any page is made."""
    return PlainTextResponse(Texts(choose_language("", headers.get("accept-language", "")))(key), status, more)


def _is_own_page(headers: Headers, host: str) -> bool:
    """Whether a form comes from a page of this board, as far as the browser says."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or (urlsplit(origin).netloc.lower() == host.lower() and origin != "null")


def format_cookie(name: str, value: str) -> str:
    """A cookie that no script reads and no other site sends."""
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict"


async def _read_body(request: Request) -> bytes:
    """The body of a request; raises as `read_form`."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise Refusal(413, "too_large", limit=str(LARGEST_BODY >> 10))
    return bytes(body)


async def read_form(request: Request, sessions: Sessions) -> Mapping[str, list[str]]:
    """The fields of a form that a page of this session sent.

    Raises:
        Refusal: If it is too large, no form, or not of this session.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "no_form")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > LARGEST_BODY:
        raise Refusal(413, "too_large", limit=str(LARGEST_BODY >> 10))
    try:
        body = await asyncio.wait_for(_read_body(request), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise Refusal(408, "too_slow", seconds=f"{BODY_SECONDS:.0f}") from None
    fields: dict[str, list[str]] = {}
    try:
        pairs: list[Any] = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError:  # no text, or too many fields
        raise Refusal(400, "no_form") from None
    for name, value in pairs:
        fields.setdefault(name, []).append(value.replace("\r\n", "\n"))
    form_key = "".join(fields.get("form_key", []))
    if not hmac.compare_digest(form_key.encode(), sessions.form_key(request.scope["session_cookie"]).encode()):
        raise Refusal(403, "old_form")
    return fields
