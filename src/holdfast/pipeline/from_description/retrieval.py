"""Data sets for a described task: of the laboratory, a folder, a catalogue, and where that is asked for the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.data.catalogue.ranking import rank_descriptions
from holdfast.errors import UserError
from holdfast.skills import SKILLS, describe_skill

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
NOTES = (".md", ".txt")
"""A file of the same name with one of these endings, or README.md beside it, describes a data file."""
MOST_FILES = 1000
HEAD = 2000
"""Characters of a file, and of a note, that are read for its description."""
MOST_OF_HUB = 50
SHOWN = 5
LAB = {
    "story": "word problems of a person's things that are bought, sold, entries, lost and counted, arithmetic",
    "sums": "addition, subtraction, arithmetic, numbers, calculate",
    "strings": "copy, reverse, sort letters, first and last of a list",
    "reading": "questions about a short passage, reading comprehension",
    "format": "answer as JSON, upper case, one word",
    "rephrase": "say a sentence in other words, paraphrase",
    "facts": "facts, knowledge, where things live, colours",
    "program": "short programs, code, what a program prints",
}
"""More words by which a skill is entries."""


@dataclass(frozen=True, slots=True)
class DataEntry:
    """A data set.

    Args:
        path: As in `data.train`.
        about: What it holds.
    """

    path: str
    about: str


def list_lab_entries() -> Iterator[DataEntry]:
    """The laboratory's skills."""
    for name in SKILLS:
        yield DataEntry(f"lab:{name}", f"{name}. {describe_skill(name)} {LAB.get(name, '')}")


def list_folder_entries(folder: Path) -> Iterator[DataEntry]:
    """The data files of a folder and those below it, or one file.

    Raises:
        UserError: If it is not there, or holds none.
    """
    if not folder.exists():
        raise UserError(f"--data: {folder} is not there; give a folder of data files, or a file")
    files = [folder] if folder.is_file() else sorted(folder.rglob("*"))[: 10 * MOST_FILES]
    files = [path for path in files if path.suffix.lower() in SUFFIXES and path.is_file()][:MOST_FILES]
    if not files:
        raise UserError(f"--data: {folder} holds no data file ({', '.join(SUFFIXES)})")
    for path in files:
        notes = [*(path.with_suffix(ending) for ending in NOTES), path.parent / "README.md"]
        texts = [_read_head(note) for note in notes if note.is_file()]
        head = "" if path.suffix == ".parquet" else _read_head(path)
        yield DataEntry(str(path), " ".join([path.stem.replace("_", " ").replace("-", " "), *texts, head]))


def _read_head(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as handle:
        return handle.read(HEAD)


def read_catalogue(path: Path) -> Iterator[DataEntry]:
    """The data sets of a catalogue of the user's own: a line of JSON for each, with `path` and `description`.

    Raises:
        UserError: If a line is none.
    """
    if not path.is_file():
        raise UserError(f"--catalogue: {path} is not there")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            yield DataEntry(str(entry["path"]), f"{entry.get('name', '')} {entry['description']}")
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}:{number}: must be JSON with path and description ({error})") from error


def search_hub(query: str) -> Iterator[DataEntry]:
    """Data sets of the Hugging Face hub, by its own search: only where the user asks for that.

    Raises:
        UserError: If the hub cannot be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        entries = list(HfApi().list_datasets(search=query, limit=MOST_OF_HUB, full=True))
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--hub: the hub cannot be asked ({first}); leave --hub out, or give --data") from error
    for entry in entries:
        yield DataEntry(str(entry.id), f"{entry.id} {entry.description or ''} {' '.join(entry.tags or ())}")


def rank_data(task: str, entries: Sequence[DataEntry]) -> list[dict[str, Any]]:
    """The data sets that have words in common with a task, best first: `{path, score, about}`."""
    scores = rank_descriptions(task, [entry.about for entry in entries])
    order = sorted(range(len(entries)), key=lambda i: -scores[i])
    return [
        {"path": entries[i].path, "score": round(scores[i], 3), "about": " ".join(entries[i].about.split())[:120]}
        for i in order[:SHOWN]
        if scores[i] > 0
    ]
