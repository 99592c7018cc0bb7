"""The board as an application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from holdfast.board.acting import ActingRoutes
from holdfast.board.chats import Chats
from holdfast.board.folder import RunsFolder
from holdfast.board.front_door import COOKIE, FrontDoor, Sessions, format_cookie, read_form
from holdfast.board.jobs import Jobs
from holdfast.board.pages import render_page
from holdfast.board.reading import ReadingRoutes
from holdfast.board.refusal import Refusal
from holdfast.board.run_index import RunIndex
from holdfast.board.run_queue import MOST_RUNS, RunQueue
from holdfast.board.talking import TalkingRoutes
from holdfast.board.waiting import WaitingRoutes


@dataclass(frozen=True, slots=True)
class BoardSettings:
    """What a board shows and to whom.

    Args:
        root: The directory of runs.
        token: What readers must show; "" where only this machine can reach the board.
        most_runs: At work at once; others wait.
    """

    root: Path
    token: str = ""
    most_runs: int = MOST_RUNS


class Board:
    """The routes of the board and what they share.

    Args:
        settings: What it shows.
    """

    def __init__(self, settings: BoardSettings) -> None:
        self.settings = settings
        self.folder, self.sessions = RunsFolder(settings.root), Sessions(settings.token)
        self.jobs = Jobs(self.folder)
        self.queue = RunQueue(self.jobs, settings.most_runs)
        self.chats = Chats(self.folder, self.jobs)
        self.index = RunIndex(self.folder, self.jobs.find_at_work)

    def build_app(self) -> FrontDoor:
        """The application."""
        acting = ActingRoutes(self.folder, self.jobs, self.queue, self.sessions)
        routes = [
            Route("/login", self._show_login, methods=["GET"]),
            Route("/login", self._take_token, methods=["POST"]),
            *ReadingRoutes(self.folder, self.index, self.queue, self.sessions).list_routes(),
            *acting.list_routes(),
            *TalkingRoutes(acting, self.chats).list_routes(),
            *WaitingRoutes(acting, self.queue).list_routes(),
        ]
        handlers: dict[Any, Callable[[Request, Any], Response]] = {
            Refusal: self._tell_refusal, HTTPException: self._tell_http_error,
        }  # fmt: skip
        return FrontDoor(Starlette(routes=routes, exception_handlers=handlers), self.sessions)

    def _show_login(self, request: Request) -> Response:
        return render_page(request, self.sessions, "login.html.j2", {"wrong": False})

    async def _take_token(self, request: Request) -> Response:
        fields = await read_form(request, self.sessions)
        if not self.sessions.is_token("".join(fields.get("token", []))):
            return await run_in_threadpool(render_page, request, self.sessions, "login.html.j2", {"wrong": True}, 401)
        response = RedirectResponse("/", 303)
        response.headers.append("Set-Cookie", format_cookie(COOKIE, self.sessions.begin_session()))
        return response

    def _tell_refusal(self, request: Request, error: Refusal) -> Response:
        values = {"status": error.status, "key": error.key, "values": error.values}
        return render_page(request, self.sessions, "refusal.html.j2", values, error.status)

    def _tell_http_error(self, request: Request, error: HTTPException) -> Response:
        key = {404: "not_here", 405: "wrong_method"}.get(error.status_code, "went_wrong")
        values = {"status": error.status_code, "key": key, "values": {"name": request.url.path[:200]}}
        return render_page(request, self.sessions, "refusal.html.j2", values, error.status_code)
