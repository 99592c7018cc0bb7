"""Documents from files, cut into passages of some words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.data.overlap.words import split_words
from holdfast.data.reading.file_records import csv_records, file_lines, json_records, kind_of
from holdfast.errors import UserError

TEXTS = (".txt", ".md")
RECORDS = (".jsonl", ".json", ".csv", ".tsv")
TEXT_KEYS = ("text", "content", "document", "passage", "body")
"""Keys under which the text of a record is looked for, in this order."""
NAME_KEYS = ("title", "name", "id")


@dataclass(frozen=True, slots=True)
class Document:
    """A text and what it is called in sources."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, as it stands there; `number` counts the document's pieces from 1."""

    name: str
    number: int
    text: str


def list_files(name: str, setting: str, endings: Sequence[str]) -> list[Path]:
    """The files that a path means: itself, or all in a folder that have one of the endings, by name.

    Args:
        setting: What names it, for errors.
    Raises:
        UserError: If there are none.
    """
    path, endings_text = Path(name).expanduser(), ", ".join(endings)
    if path.is_file():
        if kind_of(path) not in endings:
            raise UserError(
                f"{setting}: {name} is no kind of file that is read ({endings_text}, also .gz); save it as one"
            )
        return [path]
    if not path.is_dir():
        raise UserError(f"{setting}: {name} does not exist; correct the path")
    files = sorted(file for file in path.rglob("*") if file.is_file() and kind_of(file) in endings)
    if not files:
        raise UserError(f"{setting}: {name} holds no file that is read ({endings_text}, also .gz); name another folder")
    return files


def find_unread_files(name: str, endings: Sequence[str]) -> list[str]:
    """The files of a folder that are not read because of their endings."""
    path = Path(name).expanduser()
    files = sorted(path.rglob("*")) if path.is_dir() else []
    return [str(file) for file in files if file.is_file() and kind_of(file) not in endings]


def read_documents(names: Sequence[str], setting: str) -> list[Document]:
    """The documents of files and folders: of a text file all of it, of other files one a record.

    Raises:
        UserError: If a file is missing or broken, a record has no text, or there is no text in all of them.
    """
    documents: list[Document] = []
    for name in names:
        path = Path(name).expanduser()
        for file in list_files(name, setting, (*TEXTS, *RECORDS)):
            label = str(file.relative_to(path)) if path.is_dir() else file.name
            documents += _read_records(file, label, setting) if kind_of(file) in RECORDS else [_read_text(file, label)]
    documents = [document for document in documents if split_words(document.text)]
    if names and not documents:
        raise UserError(f"{setting}: {', '.join(names)}: there is no text in it; give documents with words in them")
    return documents


def _read_text(file: Path, label: str) -> Document:
    return Document(label, "".join(line for _, line in file_lines(str(file), file)))


def _read_records(file: Path, label: str, setting: str) -> Iterator[Document]:
    if not file.stat().st_size:
        return
    read = csv_records if kind_of(file) in (".csv", ".tsv") else json_records
    for number, record in read(str(file), file):
        key = next((key for key in TEXT_KEYS if isinstance(record.get(key), str)), None)
        if key is None:
            raise UserError(
                f"{setting}: {file}:{number}: has no text; its text must stand under {', '.join(TEXT_KEYS[:-1])} or "
                f"{TEXT_KEYS[-1]}"
            )
        name = next((str(record[key]) for key in NAME_KEYS if record.get(key) not in (None, "")), f"{label}:{number}")
        yield Document(name, record[key])


def cut_passages(documents: Sequence[Document], words: int, overlap: int) -> list[Passage]:
    """Pieces of at most `words` words, each beginning `words - overlap` after the one before, as they stand there."""
    passages = []
    for document in documents:
        spans = [match.span() for match in re.finditer(r"\S+", document.text)]
        starts = [*range(0, max(1, len(spans) - overlap), words - overlap)]
        for number, start in enumerate(starts, 1):
            end = min(start + words, len(spans))
            text = document.text[spans[start][0] : spans[end - 1][1]]
            if split_words(text):
                passages.append(Passage(document.name, number, text))
    return passages
