"""Pages out of templates: the report's filters and drawings, and every word from the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse

from holdfast.board.front_door import Sessions
from holdfast.board.texts import LANGUAGES, Texts, choose_language
from holdfast.report.html import build_environment

LANGUAGE_COOKIE = "holdfast_language"


@cache
def board_environment() -> Environment:
    """What the board's pages are rendered with: what renders reports, with other templates."""
    return build_environment().overlay(loader=PackageLoader("holdfast.board", "templates"))


def texts_of(request: Request) -> Texts:
    """The catalogue in the language of who asks."""
    chosen = request.query_params.get("lang") or request.cookies.get(LANGUAGE_COOKIE, "")
    return Texts(choose_language(chosen, request.headers.get("accept-language", "")))


def read_start(request: Request) -> int:
    """How many rows a page passes over."""
    text = request.query_params.get("start", "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0


def render_page(
    request: Request, sessions: Sessions, template: str, values: Mapping[str, Any], status: int = 200
) -> HTMLResponse:
    """A page or a part of one.

    Args:
        values: What the template shows.
        status: HTTP status.
    """
    texts = texts_of(request)
    page = board_environment().get_template(template).render(
        **values, t=texts, lang=texts.language, languages=LANGUAGES, path=request.url.path,
        query=[(key, value) for key, value in request.query_params.multi_items() if key != "lang"],
        form_key=sessions.form_key(request.scope["session_cookie"]), has_token=bool(sessions.token),
    )  # fmt: skip
    response = HTMLResponse(page, status)
    if request.query_params.get("lang") in LANGUAGES:
        response.set_cookie(LANGUAGE_COOKIE, texts.language, max_age=365 * 86400, samesite="strict", httponly=True)
    return response
