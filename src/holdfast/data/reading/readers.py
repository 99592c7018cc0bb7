"""Data as streams of records: JSONL, JSON, CSV, TSV, Parquet and text files, and Hugging Face data sets."""

from __future__ import annotations

import difflib
import glob
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.core.in_memory import is_memory, rows_path
from holdfast.data.reading.file_records import (
    Document,
    csv_records,
    hint_of_splits,
    is_array,
    is_larger,
    json_records,
    jsonl_records,
    kind_of,
    split_records,
    text_records,
)
from holdfast.data.reading.json_stream import (
    Record,
)
from holdfast.data.reading.parquet import parquet_records
from holdfast.data.rows import fingerprint_json
from holdfast.errors import UserError, first_line

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")


@dataclass(frozen=True, slots=True)
class Source:
    """Something rows can be read from, as often as needed.

    Args:
        name: As the user wrote it.
        by_line: Whether records are numbered by line rather than by row.
        large: Whether its rows belong on disk rather than in memory.
        records: Streams it from the start.
        digest: Names its content.
        plain: Whether it is a text, without columns of its own.
    """

    name: str
    by_line: bool
    large: bool
    records: Callable[[], Iterator[Record]]
    digest: Callable[[], str]
    plain: bool = False

    @property
    def folder(self) -> Path:
        """Where relative paths in its records begin: beside the file, or where the command runs."""
        path = Path(self.name).expanduser()
        if not path.exists() and ":" in path.name:
            path = path.with_name(path.name.rpartition(":")[0])  # file.json:split
        return (path if path.is_dir() else path.parent) if path.exists() else Path()

    def describe_place(self, number: int) -> str:
        """How errors name a record: `train.jsonl:12` or `train.parquet row 12`."""
        return f"{self.name}:{number}" if self.by_line else f"{self.name} row {number}"


IN_MEMORY = 32 << 20
"""Files up to this many bytes are kept in memory as a list of rows."""

ROWS_IN_MEMORY = 50_000
"""The same for data sets, in rows."""


SPLITS = ("test", "valid", "validation", "val", "dev", "eval", "evaluation", "holdout")
"""How a file's name begins that is not for training."""


def open_source(name: str, revision: str | None = None, document: Document = "auto") -> Source:
    """The file or data set called `name`, or one of its splits: `data.json:train`, `owner/name:config:split`.

    Args:
        name: A file, a folder that `datasets` saved, or a Hugging Face data set.
        revision: Branch, tag or commit of a Hugging Face data set.
        document: What is one document of a text file.
    Raises:
        UserError: There is no such file (the nearest name is given) and it cannot be a data set.
    """
    if is_memory(name):
        path = rows_path(name)
        return Source(name, False, path.stat().st_size > IN_MEMORY, lambda: jsonl_records(name, path), lambda: name)
    path, split = part_of(name)
    if path.is_dir():
        return _open_saved(name, path, split)
    if not path.exists():
        return _open_hub(name, revision)
    kind, size = kind_of(path), path.stat().st_size
    if size == 0:
        what = "leave it out, or write a text into it" if kind == ".txt" else "write one example per line"
        raise UserError(f"{name}: the file is empty; {what}")
    readers: dict[str, Callable[[str, Path], Iterator[Record]]] = {
        ".csv": csv_records,
        ".tsv": csv_records,
        ".parquet": parquet_records,
        ".txt": partial(text_records, document=document),
        ".jsonl": json_records,
        ".json": json_records,
    }
    if kind not in readers:
        raise UserError(f"{name}: unknown kind of file; known: {', '.join(SUFFIXES)} (also .gz)")
    read = readers[kind]
    if split and kind not in (".json", ".jsonl"):
        raise UserError(f"{name}: only JSON files and data sets have splits; name the file alone")
    if split:
        read, by_line = partial(split_records, split=split), False
    else:
        by_line = kind in (".csv", ".tsv", ".txt") or (kind in (".jsonl", ".json") and not is_array(name, path))
    large = is_larger(name, path, IN_MEMORY)
    return Source(name, by_line, large, lambda: read(name, path), lambda: _hash_file(path), kind == ".txt")


def part_of(name: str) -> tuple[Path, str]:
    """The path of a name, and the split behind a colon of a file or folder that is there; else ""."""
    path = Path(name).expanduser()
    base, colon, split = name.rpartition(":")
    if colon and base and not path.exists() and Path(base).expanduser().exists():
        return Path(base).expanduser(), split
    return path, ""


def files_of(name: str) -> list[str]:
    """The files that a pattern (`parts/*.jsonl`) or a folder (`parts`, `parts:train`) stands for; else the name alone.

    Raises:
        UserError: If there are none, or a folder's files are of several splits and none was chosen.
    """
    path, split = part_of(name)
    if is_memory(name):
        return [name]
    if not path.exists() and glob.has_magic(name):
        return _known_files(name, sorted(glob.glob(str(path), recursive=True)), "no data file fits the pattern")
    if not path.is_dir() or _is_saved(path):
        return [name]
    files = _known_files(name, sorted(map(str, path.iterdir())), "is a directory without data files")
    of_split = {file: re.split(r"[-_.]", Path(file).name.lower())[0] for file in files}
    others = sorted({word for word in of_split.values() if word in SPLITS})
    if split:
        chosen = [file for file, word in of_split.items() if word == split.lower()]
        if not chosen:
            names = ", ".join(Path(file).name for file in files[:5])
            raise UserError(f"{name}: no file there has a name that begins with {split}; there are {names}")
        return chosen
    if others and len({*of_split.values()}) > 1:
        words = list(dict.fromkeys(of_split.values()))
        one = "train" if "train" in words else words[0]
        raise UserError(f"{name}: its files are of several splits ({', '.join(words)}); write {name}:{one}")
    return files


def holds_text(name: str) -> bool:
    """Whether a text file is among those that a name stands for."""
    return any(kind_of(part_of(file)[0]) == ".txt" for file in files_of(name))


def default_document(names: Sequence[str], document: Document) -> Document:
    """What `auto` stands for: of several text files each is a document; one alone holds several."""
    is_several = sum(kind_of(part_of(name)[0]) == ".txt" for name in names) > 1
    return "file" if document == "auto" and is_several else document


def _known_files(name: str, paths: list[str], missing: str) -> list[str]:
    files = [path for path in paths if kind_of(Path(path)) in SUFFIXES and Path(path).is_file()]
    if not files:
        raise UserError(f"{name}: {missing}")
    return files


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# ---- JSON ---------------------------------------------------------------------------------------------------------


def refuse_splits(source: Source) -> None:
    """Say how to name a list inside a JSON file that is one object, and no row.

    Raises:
        UserError: If the first record of the source is such an object.
    """
    path, split = part_of(source.name)
    if not split and kind_of(path) == ".json" and (hint := hint_of_splits(source.name, path)):
        raise UserError(f"{source.name}: the file is one object, not a list of rows{hint}")


# ---- the others ---------------------------------------------------------------------------------------------------


SAVED_FILES = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` of a DatasetDict or a Dataset leaves."""


def _is_saved(path: Path) -> bool:
    """Whether a folder holds a data set that `datasets` saved."""
    return any((path / name).is_file() for name in SAVED_FILES)


def _open_saved(name: str, path: Path, split: str) -> Source:
    """A data set as `save_to_disk` left it."""
    import datasets

    if not _is_saved(path):
        raise UserError(f"{name}: is a directory; give one of its files: {', '.join(files_of(name)[:5])}")
    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # its JSON may lack anything
        raise UserError(f"{name}: the saved data set cannot be read ({first_line(error)}); save it anew") from error
    if not isinstance(dataset, datasets.Dataset):
        dataset = _choose_split(name, str(path), dataset, split)
    elif split:
        raise UserError(f"{name}: the saved data set has no splits; write {path}")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return _wrap_dataset(name, dataset, lambda: fingerprint_json([split, *map(_hash_file, files)]))


def _open_hub(name: str, revision: str | None) -> Source:
    """`owner/name`, `owner/name:config` or `owner/name:config:split` of the Hugging Face hub; default split: train."""
    missing = _describe_missing(name)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]*){0,2}", name) or kind_of(Path(name)) in SUFFIXES:
        raise MissingFile(missing)
    if "/" not in name and "did you mean" in missing:
        raise MissingFile(missing)
    import datasets

    repo, config, split = [*name.split(":"), "", ""][:3]
    try:
        dataset = datasets.load_dataset(repo, config or None, revision=revision)
    except (OSError, ValueError) as error:  # not there, no network, several configurations
        raise MissingFile(f"{missing}; and the Hugging Face data set cannot be loaded: {first_line(error)}") from error
    rows = _choose_split(name, f"{repo}:{config}", dataset, split)
    sums = sorted(rows.info.download_checksums or {})
    digest = fingerprint_json([name, revision, rows.num_rows, str(rows.features), sums])
    return _wrap_dataset(name, rows, lambda: digest)


def _choose_split(name: str, whole: str, dataset: Any, split: str) -> Any:
    """One split of a `DatasetDict`, by default `train`."""
    split = split or ("train" if "train" in dataset else next(iter(dataset)))
    if split not in dataset:
        one = next(iter(dataset))
        raise UserError(f"{name}: the data set has no split {split}; it has {', '.join(dataset)}: write {whole}:{one}")
    return dataset[split]


def _wrap_dataset(name: str, rows: Any, digest: Callable[[], str]) -> Source:
    """A `datasets.Dataset`; its class labels become their names."""
    labels = {key: feature for key, feature in rows.features.items() if hasattr(feature, "int2str")}

    def read_records() -> Iterator[Record]:
        for number, row in _iterate_rows(name, rows):
            label_ids = {key: row[key] for key in labels if isinstance(row[key], int) and row[key] >= 0}
            yield number, dict(row) | {key: labels[key].int2str(value) for key, value in label_ids.items()}

    return Source(name, False, rows.num_rows > ROWS_IN_MEMORY, read_records, digest)


def _iterate_rows(name: str, rows: Any) -> Iterator[tuple[int, Any]]:
    """The rows of a data set, numbered; one that cannot be read is named."""
    import pyarrow

    number = 0
    try:
        for number, row in enumerate(rows, 1):
            yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{name} row {number + 1}: cannot be read ({first_line(error)}); save it anew") from error


class MissingFile(UserError):
    """A data file that is not there."""


def _describe_missing(name: str) -> str:
    path = Path(name).expanduser()
    folder = path.parent
    if not folder.is_dir():
        return f"{name}: no such file (there is no directory {folder})"
    near = suggest_file(name)
    return f"{name}: no such file" + (f"; {near}" if near else "")


def suggest_file(name: str) -> str:
    """ "did you mean X?" for the file beside a missing one with the most similar name; "" for none."""
    path = Path(name).expanduser()
    names = [f.name for f in path.parent.iterdir() if f.is_file()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"did you mean {path.parent / close[0]}?" if close else ""
