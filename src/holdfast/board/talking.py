"""The pages of rows, flipped answers, chats and other tools' recipes."""

from __future__ import annotations

import json
import secrets
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from holdfast.board.acting import ActingRoutes, Fields, get_field
from holdfast.board.chats import LONGEST_TEXT, Chats, ChatTurn, parse_turns
from holdfast.board.draft import find_code_of_text
from holdfast.board.pages import read_start, render_page
from holdfast.board.refusal import Refusal
from holdfast.board.rows import list_flips, list_origins, list_rows
from holdfast.board.run_view import read_finished_report, read_text
from holdfast.core.files import remove_path, replace_file
from holdfast.errors import UserError
from holdfast.recipe.imports.conversion import convert_recipe, format_imported
from holdfast.recipe.imports.readers import SUFFIXES, read_foreign


class TalkingRoutes:
    """The routes that read rows and answers, and ask for new ones.

    Args:
        acting: The routes that take forms.
        chats: The models that answer.
    """

    def __init__(self, acting: ActingRoutes, chats: Chats) -> None:
        self.acting, self.chats = acting, chats
        self.folder, self.jobs, self.sessions = acting.folder, acting.jobs, acting.sessions

    def list_routes(self) -> list[Route]:
        """The routes."""
        take = self.acting.take_form
        return [
            Route("/rows/{name:path}", self._show_rows, methods=["GET"]),
            Route("/flips/{name:path}", self._show_flips, methods=["GET"]),
            Route("/chat/{name:path}", self._show_chat, methods=["GET"]),
            Route("/chat/{name:path}", take(self._answer_question), methods=["POST"]),
            Route("/open-chat/{name:path}", take(self._open_chat), methods=["POST"]),
            Route("/parts/chat/{name:path}", self._show_chat_part, methods=["GET"]),
            Route("/import", self._show_import, methods=["GET"]),
            Route("/import", take(self._import_recipe), methods=["POST"]),
        ]

    def _render(self, request: Request, template: str, values: dict[str, Any], status: int = 200) -> Response:
        return render_page(request, self.sessions, template, values, status)

    def _show_rows(self, request: Request) -> Response:
        path = self.folder.find_run(request.path_params["name"])
        words, origin = request.query_params.get("q", "")[:200], request.query_params.get("origin", "")[:50]
        start = read_start(request)
        values = {
            **list_rows(path, words, origin, start), "name": self.folder.name_of(path), "words": words,
            "own_code": find_code_of_text(read_text(path / "resolved.yaml")),
            "origin": origin, "start": start, "origins": list_origins(read_finished_report(path)),
        }  # fmt: skip
        return self._render(request, "rows.html.j2", values)

    def _show_flips(self, request: Request) -> Response:
        path = self.folder.find_run(request.path_params["name"])
        task, kind = request.query_params.get("task", "")[:200], request.query_params.get("kind", "")[:10]
        start = read_start(request)
        values = {
            **list_flips(path, task, kind, start), "name": self.folder.name_of(path), "task": task, "kind": kind,
            "start": start,
        }  # fmt: skip
        return self._render(request, "flips.html.j2", values)

    def _describe_chat(self, name: str) -> dict[str, Any]:
        path = self.folder.find_run(name)
        chat = self.chats.find_chat(path)
        alive = chat is not None and self.jobs.is_alive(chat[0])
        return {
            "name": self.folder.name_of(path), "job": chat[0] if chat else None, "alive": alive,
            "models": chat[1] if chat and alive else [], "is_ready": bool(chat and alive and chat[2]),
            "turns": [], "kept_turns": "[]", "temperature": "0",
            "own_code": [] if alive else find_code_of_text(read_text(path / "resolved.yaml")),
        }  # fmt: skip

    def _show_chat(self, request: Request) -> Response:
        return self._render(request, "chat.html.j2", self._describe_chat(request.path_params["name"]))

    def _show_chat_part(self, request: Request) -> Response:
        values = self._describe_chat(request.path_params["name"])
        response = self._render(request, "chat_part.html.j2", values)
        if values["is_ready"] or not values["alive"]:
            response.headers["HX-Refresh"] = "true"
        return response

    def _open_chat(self, request: Request, fields: Fields) -> Response:
        path = self.folder.find_run(request.path_params["name"])
        self.acting.read_recipe_of(path, fields)
        self.chats.open_chat(path)
        return RedirectResponse(f"/chat/{quote(self.folder.name_of(path))}", 303)

    def _answer_question(self, request: Request, fields: Fields) -> Response:
        path = self.folder.find_run(request.path_params["name"])
        question, heat = get_field(fields, "question").strip(), get_field(fields, "temperature") or "0"
        values = self._describe_chat(request.path_params["name"])
        if not question or len(question) > LONGEST_TEXT or heat not in ("0", "0.7", "1"):
            raise Refusal(400, "no_form")
        turns: list[ChatTurn] = parse_turns(get_field(fields, "turns"), len(values["models"]))
        turns.append(self.chats.ask_models(path, turns, question, float(heat)))
        past = json.dumps([[turn.question, turn.answers] for turn in turns])
        values |= {"turns": turns, "kept_turns": past, "temperature": heat}
        template = "chat_part.html.j2" if "hx-request" in request.headers else "chat.html.j2"
        return self._render(request, template, values)

    def _show_import(self, request: Request) -> Response:
        files = self.folder.list_files(SUFFIXES)
        return self._render(
            request, "import.html.j2", {"files": files, "suffixes": SUFFIXES, "problems": [], "text": ""}
        )

    def _import_recipe(self, request: Request, fields: Fields) -> Response:
        name, text, suffix = (get_field(fields, key) for key in ("file", "text", "suffix"))
        if suffix not in SUFFIXES:
            raise Refusal(400, "no_form")
        place = self.folder.state / "imports" / secrets.token_hex(8)
        file = self.folder.find_path(name.strip()) if name.strip() else place / f"pasted{suffix}"
        try:
            if not name.strip():
                place.mkdir(parents=True)
                replace_file(file, text)
            recipe = convert_recipe(read_foreign(file), file)
        except UserError as error:
            files = self.folder.list_files(SUFFIXES)
            lines = str(error).replace(f"{place}/", "").split("\n")
            values = {"files": files, "suffixes": SUFFIXES, "problems": lines, "text": text}
            return self._render(request, "import.html.j2", values, 422)
        finally:
            remove_path(place)
        notes = [*recipe.remarks, *recipe.left_out]
        return self.acting.show_text(
            request, format_imported(recipe, file), [note.replace(f"{place}/", "") for note in notes]
        )
