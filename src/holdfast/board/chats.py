"""Base and tuned asked the same, side by side: `holdfast serve` in a process of its own answers for both."""

from __future__ import annotations

import json
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.board.folder import RunsFolder
from holdfast.board.jobs import CHAT, Job, Jobs
from holdfast.board.refusal import Refusal
from holdfast.board.run_view import read_text
from holdfast.errors import UserError
from holdfast.recipe.yaml_reader import parse_yaml

READY = re.compile(r"^serving (.+) at (http://127\.0\.0\.1:\d+/v1)$", re.M)
MOST_TURNS = 40
LONGEST_TEXT = 20_000
"""Characters of one question or answer."""
TOKENS = 512
SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A question, and what each of the two models answered."""

    question: str
    answers: tuple[str, ...]


class Chats:
    """The two models that can be talked to; others are loaded in their place.

    Args:
        folder: The directory of runs.
        jobs: Its processes.
    """

    def __init__(self, folder: RunsFolder, jobs: Jobs) -> None:
        self.folder, self.jobs = folder, jobs
        self._keys: dict[str, str] = {}
        # No proxy of the environment is to hear what is said to a process of this machine.
        self._client = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def open_chat(self, run: Path) -> Job:
        """Load a run and its base.

        Raises:
            Refusal: If the run has no model yet.
        """
        base = read_base(run)
        if not base or not (run / "model").is_dir():
            raise Refusal(409, "no_model", name=self.folder.name_of(run))
        self.close_all()
        key = secrets.token_hex(24)
        words = ["serve", str(run), f"--against={base}", "--port=0", "--slots=4"]
        environment = {"HOLDFAST_API_KEY": key}
        job = self.jobs.start_job(CHAT, words, run=self.folder.name_of(run), environment=environment)
        self._keys[job.name] = key
        return job

    def close_all(self) -> None:
        """End every process that answers, also of a board that was killed."""
        for job in self.jobs.list_jobs():
            if job.kind == CHAT:
                self.jobs.stop_job(job)

    def find_chat(self, run: Path) -> tuple[Job, list[str], str] | None:
        """The process that answers for a run, its models and address; no address while it loads."""
        name = self.folder.name_of(run)
        for job in self.jobs.list_jobs():
            if job.kind == CHAT and job.run == name and job.name in self._keys:
                match = READY.search(read_text(self.jobs.root / job.name / "said.jsonl"))
                return job, match[1].split(", ") if match else [], match[2] if match else ""
        return None

    def ask_models(self, run: Path, turns: Sequence[ChatTurn], question: str, temperature: float) -> ChatTurn:
        """Both models' answers to a question after what was said to each.

        Raises:
            Refusal: If they are not loaded.
        """
        chat = self.find_chat(run)
        if chat is None or not chat[2] or not self.jobs.is_alive(chat[0]):
            raise Refusal(409, "not_loaded", name=self.folder.name_of(run))
        job, models, address = chat

        def ask_one(number: int) -> str:
            messages = [
                {"role": role, "content": text}
                for turn in turns
                for role, text in (("user", turn.question), ("assistant", turn.answers[number]))
            ]
            messages.append({"role": "user", "content": question})
            body = {"model": models[number], "messages": messages, "temperature": temperature, "max_tokens": TOKENS}
            return self._post_json(f"{address}/chat/completions", self._keys[job.name], body)

        with ThreadPoolExecutor(len(models)) as pool:
            return ChatTurn(question, tuple(pool.map(ask_one, range(len(models)))))

    def _post_json(self, address: str, key: str, body: dict[str, Any]) -> str:
        """The text of an answer, or why there is none."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with self._client.open(request, timeout=SECONDS) as response:
                return str(json.load(response)["choices"][0]["message"]["content"])[:LONGEST_TEXT]
        except urllib.error.HTTPError as error:
            return f"[{json.load(error).get('error', {}).get('message', error.reason)}]"
        except OSError as error:
            return f"[{error}]"


def read_base(run: Path) -> str:
    """The model that a run began with; "" where that cannot be read."""
    try:
        data = parse_yaml(read_text(run / "resolved.yaml"), "resolved.yaml")[0].plain_data()
    except UserError:
        return ""
    model = data.get("model") if isinstance(data, dict) else None
    return model if isinstance(model, str) else ""


def parse_turns(text: str, models: int) -> list[ChatTurn]:
    """What was said so far, as a page has kept it.

    Raises:
        Refusal: If it is nothing of ours.
    """
    try:
        turns = [ChatTurn(str(question), tuple(map(str, answers))) for question, answers in json.loads(text or "[]")]
    except (ValueError, TypeError, RecursionError):
        raise Refusal(400, "no_form") from None
    sizes = [len(part) for turn in turns for part in (turn.question, *turn.answers)]
    if (
        len(turns) > MOST_TURNS
        or any(len(turn.answers) != models for turn in turns)
        or max(sizes, default=0) > LONGEST_TEXT
    ):
        raise Refusal(400, "no_form")
    return turns
