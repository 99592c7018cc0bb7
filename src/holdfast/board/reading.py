"""The pages that only read: list, run, comparison, report, recipe."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from holdfast.axes.axis import AXES, Axis
from holdfast.axes.registry import find_method, method_names
from holdfast.board.comparison import MOST_RUNS, compare_directories
from holdfast.board.draft import find_code_of_text
from holdfast.board.folder import RunsFolder
from holdfast.board.front_door import Sessions
from holdfast.board.jobs import DTYPES, FORMS
from holdfast.board.pages import read_start, render_page, texts_of
from holdfast.board.refusal import Refusal
from holdfast.board.run_index import RUNNING, STATES, RunEntry, RunIndex
from holdfast.board.run_queue import RunQueue
from holdfast.board.run_view import check_report, describe_progress, describe_run, read_text
from holdfast.board.wording import describe_result
from holdfast.report import phrasing, plots

ORDERS = {
    "created": lambda entry: entry.created,
    "name": lambda entry: entry.name,
    "method": lambda entry: entry.method,
    "state": lambda entry: STATES.index(entry.state),
    "gain": lambda entry: (phrasing.change_of(entry.gain) or {}).get("delta", float("-inf")),
    "loss": lambda entry: -(entry.loss or {}).get("delta", float("inf")),
    "seconds": lambda entry: entry.seconds or 0.0,
}
"""What the list can be sorted by; the largest comes first, but of names."""
PAGE = 100
"""Runs on a page of the list."""
MOST_POINTS = 12
"""Runs on the plane of the list; more of them would hide each other."""
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; sandbox allow-popups"
"""Rules for a report, which is a page of its own with its style inside and no script."""
STATIC = {
    "htmx.min.js": ("holdfast.board", "static/htmx.min.js"),
    "board.css": ("holdfast.board", "static/board.css"),
    "report.css": ("holdfast.report", "templates/report.css"),
}


class ReadingRoutes:
    """The routes that change nothing.

    Args:
        folder: The directory of runs.
        index: Its runs.
        queue: Its line of runs.
        sessions: Who reads.
    """

    def __init__(self, folder: RunsFolder, index: RunIndex, queue: RunQueue, sessions: Sessions) -> None:
        self.folder, self.index, self.queue, self.jobs, self.sessions = folder, index, queue, queue.jobs, sessions

    def list_routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/", self._show_list, methods=["GET"]),
            Route("/parts/list", self._show_list_part, methods=["GET"]),
            Route("/run/{name:path}", self._show_run, methods=["GET"]),
            Route("/parts/run/{name:path}", self._show_run_part, methods=["GET"]),
            Route("/report/{name:path}", self._show_report, methods=["GET"]),
            Route("/recipe/{name:path}", self._send_recipe, methods=["GET"]),
            Route("/compare", self._show_comparison, methods=["GET"]),
            Route("/methods", self._show_methods, methods=["GET"]),
            Route("/favicon.ico", self._send_nothing, methods=["GET"]),
            Route("/static/{file}", self._send_static, methods=["GET"]),
        ]

    def _describe_list(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        words, state, order = query.get("q", "")[:200], query.get("state", ""), query.get("sort", "created")
        order = order if order in ORDERS else "created"
        every, waiting, starting = self.index.list_entries(), self.queue.list_waiting(), self.queue.list_starting()
        entries = [entry for entry in every if matches_words(entry, words) and state in ("", entry.state)]
        entries.sort(key=ORDERS[order], reverse=order not in ("name", "method", "state"))
        start = read_start(request)
        return {
            "entries": entries[start : start + PAGE], "matches": len(entries), "start": start, "page": PAGE,
            "total": len(every), "words": words, "state": state, "order": order,
            "orders": list(ORDERS), "states": STATES, "most": MOST_RUNS,
            "is_live": bool(waiting or starting) or any(entry.state == RUNNING for entry in every),
            "waiting": waiting, "starting": starting, "places": {entry.job.run: entry.place for entry in waiting},
        }  # fmt: skip

    def _show_list(self, request: Request) -> Response:
        values = self._describe_list(request)
        return self._render(request, "list.html.j2", {**values, "plane": draw_plane(values["entries"])})

    def _show_list_part(self, request: Request) -> Response:
        return self._render(request, "list_table.html.j2", self._describe_list(request))

    def _show_run(self, request: Request) -> Response:
        name = request.path_params["name"]
        path = self.folder.find_run(name)
        entry = check_report(path, self.index.read_entry(path))
        job = self.jobs.find_for_run(entry.name)
        values = {
            **describe_run(path, entry), **describe_progress(path, entry), "entry": entry, "job": job,
            "ours": job is not None and self.jobs.is_alive(job), "forms": FORMS, "dtypes": DTYPES,
            "waits": self.queue.find_waiting(entry.name),
        }  # fmt: skip
        values["own_code"] = find_code_of_text(values["resolved"])
        values["verdict"] = describe_result(values["report"], texts_of(request)) if values["report"] else ""
        return self._render(request, "run.html.j2", values)

    def _show_run_part(self, request: Request) -> Response:
        path = self.folder.find_run(request.path_params["name"])
        entry = self.index.read_entry(path)
        response = self._render(request, "run_live.html.j2", {**describe_progress(path, entry), "entry": entry})
        if entry.state != RUNNING:
            response.headers["HX-Refresh"] = "true"  # what it came to stands elsewhere on the page too
        return response

    def _show_report(self, request: Request) -> Response:
        path = self.folder.find_path(f"{request.path_params['name']}/report.html")
        if not path.is_file():
            raise Refusal(404, "no_report", name=request.path_params["name"])
        page = path.read_text(encoding="utf-8", errors="replace")
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    def _send_recipe(self, request: Request) -> Response:
        path = self.folder.find_run(request.path_params["name"])
        file = self.folder.find_path(self.folder.name_of(path / "resolved.yaml"))
        if not file.is_file():
            raise Refusal(404, "no_recipe", name=request.path_params["name"])
        headers = {"Content-Disposition": 'attachment; filename="recipe.yaml"'}
        return Response(read_text(file), media_type="text/plain; charset=utf-8", headers=headers)

    def _show_comparison(self, request: Request) -> Response:
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        if len(names) > MOST_RUNS:
            raise Refusal(400, "too_many_runs", most=str(MOST_RUNS))
        values = compare_directories({name: self.folder.find_run(name) for name in names}) if names else {}
        return self._render(request, "compare.html.j2", {"names": names, "found": values})

    def _show_methods(self, request: Request) -> Response:
        words = request.query_params.get("q", "")[:200]
        return self._render(request, "methods.html.j2", {"words": words, "axes": find_pages(words)})

    def _send_static(self, request: Request) -> Response:
        file = request.path_params["file"]
        if file not in STATIC:
            raise Refusal(404, "not_here", name=file[:200])
        package, place = STATIC[file]
        content = files(package).joinpath(place).read_bytes()
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
        return Response(content, media_type=kind, headers={"Cache-Control": "max-age=3600"})

    def _send_nothing(self, request: Request) -> Response:
        return Response(status_code=204)

    def _render(self, request: Request, template: str, values: dict[str, Any]) -> HTMLResponse:
        return render_page(request, self.sessions, template, values)


def find_pages(words: str) -> list[tuple[Axis, list[tuple[str, str, str]]]]:
    """Name, first line and reference page of each method of the package in which every word stands, axis by axis."""
    axes = []
    for axis in AXES:
        methods = [(name, find_method(axis.plural, name)) for name in method_names(axis.plural)]
        pages = [(name, cls.summary_line(), f"{cls.reference_page()}\n\n{cls.paper}") for name, cls in methods]
        matches = [page for page in pages if all(word in " ".join(page).lower() for word in words.lower().split())]
        axes += [(axis, matches)] if matches else []
    return axes


def matches_words(entry: RunEntry, words: str) -> bool:
    """Whether every word stands in what is known of a run."""
    text = f"{entry.name} {entry.method} {entry.model}".lower()
    return all(word in text for word in words.lower().split())


def draw_plane(entries: Sequence[RunEntry]) -> str:
    """The gain/loss plane of the first runs that were measured in points."""
    reports = [(entry, {"gain": entry.gain, "loss": entry.loss}) for entry in entries if entry.gain and entry.loss]
    alike = [pair for pair in reports if phrasing.in_points(pair[1]["gain"]) and _is_of_tasks(pair[1]["loss"])]
    points = [plots.point_of(report, entry.name, n) for n, (entry, report) in enumerate(alike[:MOST_POINTS])]
    return plots.gain_loss_plane([point for point in points if point])


def _is_of_tasks(loss: Any) -> bool:
    """Whether a loss is counted in points of tasks, as the axis says."""
    return phrasing.in_points(loss) and loss.get("of") in (None, "tasks")
