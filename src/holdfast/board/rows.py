"""The rows a run was trained on, with what of them is trained, and the answers that flipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.core.files import read_json_lines
from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.task import JUDGED

PAGE = 20
"""Rows or answers on a page."""


def list_rows(run: Path, words: str, origin: str, start: int) -> dict[str, Any]:
    """The values of the page of rows.

    Args:
        words: All of them stand in each row.
        origin: Who wrote them; "" for anybody.
        start: Rows to be passed over.
    """
    file = run / "curated.jsonl"
    every = read_json_lines(file) if file.is_file() else iter(())
    matches = (row for row in every if origin in ("", row.get("origin")) and _holds_words(row, words))
    rows = list(islice(matches, start, start + PAGE + 1))
    return {"rows": [describe_row(row) for row in rows[:PAGE]], "more": len(rows) > PAGE}


def _holds_words(row: Mapping[str, Any], words: str) -> bool:
    text = str(row.get("messages", "")).lower()
    return all(word in text for word in words.lower().split())


def describe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as pieces of text, each with who says it and whether it is trained, and what was tried for it."""
    messages = [message for message in row.get("messages") or [] if isinstance(message, dict)]
    pieces = [
        {"role": str(message.get("role", "")), "text": _text_of(message.get("content")), "trained": is_trained(message)}
        for message in messages
    ]
    for name in ("chosen", "rejected"):
        if isinstance(row.get(name), str):
            pieces.append({"role": name, "text": row[name], "trained": name == "chosen"})
    meta = row.get("meta")
    trace = meta.get("trace") if isinstance(meta, dict) else None
    attempts = [
        attempt
        for entry in (trace if isinstance(trace, list) else [])
        if isinstance(entry, dict)
        for attempt in entry.get("attempts") or []
        if isinstance(attempt, dict)
    ]
    return {
        "origin": str(row.get("origin", "")),
        "pieces": pieces,
        "attempts": attempts,
        "reference": row.get("reference"),
    }


def is_trained(message: Mapping[str, Any]) -> bool:
    """Whether a message is trained on: an answer, unless its weight is 0."""
    return message.get("role") == "assistant" and message.get("weight", 1) != 0


def _text_of(content: Any) -> str:
    """The text of a message, of a picture its place."""
    if isinstance(content, list):
        return " ".join(
            str(part.get("text", f"[{part.get('type', '')}]")) for part in content if isinstance(part, dict)
        )
    return "" if content is None else str(content)


def list_origins(report: Mapping[str, Any] | None) -> list[str]:
    """Who wrote rows of a run, by its report."""
    return [str(name) for name in ((report or {}).get("curation") or {}).get("counts") or {}]


def list_flips(run: Path, task: str, kind: str, start: int) -> dict[str, Any]:
    """The values of the page of flipped answers.

    Args:
        task: Only of this one; "" for all.
        kind: "won", "lost", or "" for both.
        start: Answers to be passed over.
    """
    base, tuned = (ResultsStore(run / "eval" / when).read_measurements() for when in ("base", "final"))
    names = [name for name, (info, _) in tuned.items() if name in base and info.kind in JUDGED]

    def find_flips() -> Iterator[dict[str, Any]]:
        for name in names:
            before = {item.id: item for item in base[name][1]}
            for item in tuned[name][1] if task in ("", name) else ():
                first = before.get(item.id)
                if first is not None and first.passed != item.passed and kind in ("", "won" if item.passed else "lost"):
                    yield {
                        "task": name, "id": item.id, "prompt": item.prompt, "reference": item.reference,
                        "won": item.passed, "base": first.response, "tuned": item.response,
                    }  # fmt: skip

    flips = list(islice(find_flips(), start, start + PAGE + 1))
    return {"flips": flips[:PAGE], "more": len(flips) > PAGE, "tasks": names}
