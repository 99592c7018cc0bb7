"""The pages of the line of runs that wait for their turn."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from holdfast.board.acting import ActingRoutes, Fields, get_field
from holdfast.board.pages import render_page
from holdfast.board.refusal import Refusal
from holdfast.board.run_queue import RunQueue

STEPS = {"up": -1, "down": 1}


class WaitingRoutes:
    """The routes that show and change the line.

    Args:
        acting: The routes that take forms.
        queue: The line.
    """

    def __init__(self, acting: ActingRoutes, queue: RunQueue) -> None:
        self.acting, self.queue = acting, queue

    def list_routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/parts/queue", self._show_part, methods=["GET"]),
            Route("/queue/{name}", self.acting.take_form(self._change_line), methods=["POST"]),
        ]

    def _show_part(self, request: Request) -> Response:
        values: dict[str, Any] = {
            "waiting": self.queue.list_waiting(),
            "starting": self.queue.list_starting(),
            "is_live": True,
        }
        return render_page(request, self.acting.sessions, "queue_part.html.j2", values)

    def _change_line(self, request: Request, fields: Fields) -> Response:
        name, wish = request.path_params["name"], get_field(fields, "do")
        if wish in STEPS:
            self.queue.move_run(name, STEPS[wish])
        elif wish == "out":
            self.queue.remove_run(name)
        elif wish == "allow":
            self.queue.allow_run(name)
        else:
            raise Refusal(400, "no_form")
        return RedirectResponse("/", 303)
