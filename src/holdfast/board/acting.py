"""The pages that change something: a recipe being written, and the processes that run it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from holdfast.board.draft import (
    START,
    RecipeDraft,
    change_data,
    find_code_of_text,
    list_methods,
    parse_text,
    read_values,
    write_text,
)
from holdfast.board.folder import DATA, RunsFolder
from holdfast.board.front_door import Sessions, read_form
from holdfast.board.jobs import CHECK, DTYPES, EXPORT, FORMS, TRAIN, Job, Jobs, describe_said
from holdfast.board.pages import render_page
from holdfast.board.refusal import Refusal
from holdfast.board.run_queue import RunQueue
from holdfast.board.run_view import read_text
from holdfast.errors import Mistake, UserError, list_mistakes
from holdfast.pipeline.run_dir import MARK

Fields = Mapping[str, list[str]]
FIELD = "set."
"""What the names of a form's settings begin with, so that none is taken for another field."""


def get_field(fields: Fields, name: str) -> str:
    """The last value of a field; "" where there is none."""
    return (fields.get(name) or [""])[-1]


class ActingRoutes:
    """The routes that start, stop and resume.

    Args:
        folder: The directory of runs.
        jobs: Its processes.
        queue: Its line of runs.
        sessions: Whose forms are taken.
    """

    def __init__(self, folder: RunsFolder, jobs: Jobs, queue: RunQueue, sessions: Sessions) -> None:
        self.folder, self.jobs, self.queue, self.sessions = folder, jobs, queue, sessions

    def list_routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/new", self._show_draft, methods=["GET"]),
            Route("/draft", self.take_form(self._take_draft), methods=["POST"]),
            Route("/stop/{name:path}", self.take_form(self._stop_run), methods=["POST"]),
            Route("/resume/{name:path}", self.take_form(self._resume_run), methods=["POST"]),
            Route("/check/{name:path}", self.take_form(self._check_run), methods=["POST"]),
            Route("/export/{name:path}", self.take_form(self._export_run), methods=["POST"]),
            Route("/jobs", self._list_jobs, methods=["GET"]),
            Route("/job/{name}", self._show_job, methods=["GET"]),
            Route("/parts/job/{name}", self._show_job_part, methods=["GET"]),
            Route("/job/{name}/stop", self.take_form(self._stop_job), methods=["POST"]),
        ]

    def take_form(self, answer: Callable[[Request, Fields], Response]) -> Callable[[Request], Awaitable[Response]]:
        """A route that reads a form of this session, and answers in a thread."""

        async def read_and_answer(request: Request) -> Response:
            fields = await read_form(request, self.sessions)
            return await run_in_threadpool(answer, request, fields)

        return read_and_answer

    def _show_draft(self, request: Request) -> Response:
        text = START
        if run := request.query_params.get("run"):
            path = self.folder.find_run(run)
            text = drop_output(read_text(self.folder.find_path(self.folder.name_of(path / "resolved.yaml"))))
        elif job := request.query_params.get("job"):
            text = read_text(self.jobs.place_of(job) / "recipe.yaml")
        return self._render_draft(request, RecipeDraft.from_text(text, self.folder.root))

    def _take_draft(self, request: Request, fields: Fields) -> Response:
        draft, notes = self._read_draft(fields)
        wish, trusts = get_field(fields, "do"), get_field(fields, "trust") == "yes"
        draft.problems = [*notes, *draft.problems]
        if wish not in ("check", "start") or draft.problems or (draft.own_code and not trusts):
            asks = bool(wish in ("check", "start") and draft.own_code and not trusts and not draft.problems)
            return self._render_draft(request, draft, asks=asks)
        try:
            job = self._start_draft(draft, wish)
        except UserError as error:
            draft.problems += list_mistakes(error)
            return self._render_draft(request, draft)
        return RedirectResponse(f"/job/{job.name}", 303)

    def _read_draft(self, fields: Fields) -> tuple[RecipeDraft, list[Mistake]]:
        """The draft of a form, changed by its fields, and what of these cannot be read."""
        text, base = get_field(fields, "text"), get_field(fields, "base")
        try:
            shown_data = parse_text(base)
        except UserError:
            shown_data = {}
        values = {name.removeprefix(FIELD): texts[-1] for name, texts in fields.items() if name.startswith(FIELD)}
        try:
            data, notes = change_data(parse_text(text), read_values(shown_data), values) if values else (None, [])
        except UserError:  # the text says what is wrong with it
            data, notes = None, []
        if data is not None and data != parse_text(text):
            text = write_text(data)
        return RecipeDraft.from_text(text, self.folder.root, shown_data), notes

    def _start_draft(self, draft: RecipeDraft, wish: str) -> Job:
        """The process that checks or runs a draft."""
        files = {"recipe.yaml": draft.text}
        if wish == "check":
            return self.jobs.start_job(CHECK, ["check", "{job}/recipe.yaml", "--json"], files=files)
        return self.queue.add_run(self.folder.name_of(draft.choose_output(self.folder.root)), draft.text)

    def show_text(self, request: Request, text: str, notes: Sequence[str] = ()) -> Response:
        """The page of a recipe to go on with, and what is to be said of it."""
        return self._render_draft(request, RecipeDraft.from_text(text, self.folder.root), notes=notes)

    def _render_draft(
        self, request: Request, draft: RecipeDraft, *, asks: bool = False, notes: Sequence[str] = ()
    ) -> Response:
        is_part = "hx-request" in request.headers
        values = {
            "draft": draft, "fields": draft.list_fields(), "asks": asks, "methods": list_methods(), "notes": notes,
            "files": self.folder.list_files(DATA),
        }  # fmt: skip
        status = 200 if is_part or request.method == "GET" or notes or not draft.problems else 422
        template = "draft_form.html.j2" if is_part else "new.html.j2"
        return render_page(request, self.sessions, template, values, status)

    def _stop_run(self, request: Request, fields: Fields) -> Response:
        name = self.folder.name_of(self.folder.find_run(request.path_params["name"]))
        job = self.jobs.find_for_run(name)
        if job is None or not self.jobs.is_alive(job):
            raise Refusal(409, "not_ours", name=name)
        self.jobs.stop_job(job)
        return RedirectResponse(f"/job/{job.name}", 303)

    def _resume_run(self, request: Request, fields: Fields) -> Response:
        path = self.folder.find_run(request.path_params["name"])
        text = self.read_recipe_of(path, fields)
        job = self.queue.add_run(self.folder.name_of(path), text, resumes=True)
        return RedirectResponse(f"/job/{job.name}", 303)

    def read_recipe_of(self, path: Path, fields: Fields) -> str:
        """The recipe of a run that a form is about.

        Raises:
            Refusal: If it runs code of its own, and the form does not say that it may.
        """
        text = read_text(path / "resolved.yaml")
        if get_field(fields, "trust") != "yes" and (names := find_code_of_text(text)):
            raise Refusal(409, "own_code_first", names=", ".join(names))
        return text

    def _check_run(self, request: Request, fields: Fields) -> Response:
        path = self.folder.find_run(request.path_params["name"])
        files = {"recipe.yaml": self.read_recipe_of(path, fields)}
        job = self.jobs.start_job(CHECK, ["check", str(path), "--json"], run=self.folder.name_of(path), files=files)
        return RedirectResponse(f"/job/{job.name}", 303)

    def _export_run(self, request: Request, fields: Fields) -> Response:
        path = self.folder.find_run(request.path_params["name"])
        out = self.folder.find_path(get_field(fields, "out").strip())
        form, dtype = get_field(fields, "form"), get_field(fields, "dtype")
        self.read_recipe_of(path, fields)
        if out.exists():
            raise Refusal(409, "is_there", name=self.folder.name_of(out))
        if form not in FORMS or dtype not in DTYPES:
            raise Refusal(400, "no_form")
        more = [*(["--merge"] if get_field(fields, "merge") else []), *(["--dtype", dtype] if dtype else [])]
        words = ["export", str(path), str(out), "--form", form, *more, "--json"]
        job = self.jobs.start_job(EXPORT, words, run=self.folder.name_of(path))
        return RedirectResponse(f"/job/{job.name}", 303)

    def _stop_job(self, request: Request, fields: Fields) -> Response:
        job = self.jobs.find_job(request.path_params["name"])
        self.jobs.stop_job(job)
        return RedirectResponse(f"/job/{job.name}", 303)

    def _list_jobs(self, request: Request) -> Response:
        jobs = [{"job": job, "alive": self.jobs.is_alive(job)} for job in self.jobs.list_jobs()[:100]]
        places = {entry.job.name: entry.place for entry in self.queue.list_waiting()}
        return render_page(request, self.sessions, "jobs.html.j2", {"jobs": jobs, "places": places})

    def describe_job(self, name: str) -> dict[str, Any]:
        """The values of a job's page."""
        job = self.jobs.find_job(name)
        alive = self.jobs.is_alive(job)
        words = describe_said(self.jobs.read_said(job))
        is_there = bool(job.run) and (self.folder.root / job.run / MARK).is_file()
        place = Path(self.jobs.place_of(name))
        waits = next((entry for entry in self.queue.list_waiting() if entry.job.name == name), None)
        return {
            "job": job, "alive": alive, "said": words, "is_there": is_there, "waits": waits,
            "written_to": str((words["result"] or {}).get("path", "")).removeprefix(f"{self.folder.root}/"),
            "text": read_text(place / "recipe.yaml") if job.kind == CHECK else "",
        }  # fmt: skip

    def _show_job(self, request: Request) -> Response:
        return render_page(request, self.sessions, "job.html.j2", self.describe_job(request.path_params["name"]))

    def _show_job_part(self, request: Request) -> Response:
        values = self.describe_job(request.path_params["name"])
        response = render_page(request, self.sessions, "job_part.html.j2", values)
        if values["job"].kind == TRAIN and values["alive"] and values["is_there"] and values["said"]["progress"]:
            response.headers["HX-Redirect"] = f"/run/{quote(values['job'].run)}"
        elif not values["alive"] and not values["waits"]:
            response.headers["HX-Refresh"] = "true"
        return response


def drop_output(text: str) -> str:
    """A recipe's text without its output, which another run has."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("output:"))
