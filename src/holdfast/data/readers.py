"""Data as streams of records: JSONL, JSON, CSV, TSV, Parquet and text files, and Hugging Face data sets."""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import glob
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

from holdfast.data.rows import fingerprint
from holdfast.errors import UserError
from holdfast.memory import is_memory, rows_path

Record = tuple[int, dict[str, Any]]
"""Where it stands (line or row number, from 1), and its columns."""


class ByPlace(dict[str, Any]):
    """A record that is a list: its columns are called "0", "1", ..."""


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

    def at(self, number: int) -> str:
        """How errors name a record: `train.jsonl:12` or `train.parquet row 12`."""
        return f"{self.name}:{number}" if self.by_line else f"{self.name} row {number}"


IN_MEMORY = 32 << 20
"""Files up to this many bytes are kept in memory as a list of rows."""

ROWS_IN_MEMORY = 50_000
"""The same for data sets, in rows."""


SPLITS = ("test", "valid", "validation", "val", "dev", "eval", "evaluation", "holdout")
"""How a file's name begins that is not for training."""


def open_source(name: str, revision: str | None = None) -> Source:
    """The file or data set called `name`, or one of its splits: `data.json:train`, `owner/name:config:split`.

    Args:
        name: A file, a folder that `datasets` saved, or a Hugging Face data set.
        revision: Branch, tag or commit of a Hugging Face data set.
    Raises:
        UserError: There is no such file (the nearest name is given) and it cannot be a data set.
    """
    if is_memory(name):
        path = rows_path(name)
        return Source(name, False, path.stat().st_size > IN_MEMORY, lambda: _jsonl(name, path), lambda: name)
    path, split = part_of(name)
    if path.is_dir():
        return _saved(name, path, split)
    if not path.exists():
        return _hub(name, revision)
    kind, size = kind_of(path), path.stat().st_size
    if size == 0:
        raise UserError(f"{name}: the file is empty; write one example per line")
    readers: dict[str, Callable[[str, Path], Iterator[Record]]] = {
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
        ".txt": _text,
        ".jsonl": _json,
        ".json": _json,
    }
    if kind not in readers:
        raise UserError(f"{name}: unknown kind of file; known: {', '.join(SUFFIXES)} (also .gz)")
    read = readers[kind]
    if split and kind not in (".json", ".jsonl"):
        raise UserError(f"{name}: only JSON files and data sets have splits; name the file alone")
    if split:
        read, by_line = partial(_split_of_object, split=split), False
    else:
        by_line = kind in (".csv", ".tsv", ".txt") or (kind in (".jsonl", ".json") and not _is_array(name, path))
    return Source(name, by_line, size > IN_MEMORY, lambda: read(name, path), lambda: _digest(path), kind == ".txt")


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
    found = _known_files(name, sorted(map(str, path.iterdir())), "is a directory without data files")
    of_split = {file: re.split(r"[-_.]", Path(file).name.lower())[0] for file in found}
    others = sorted({word for word in of_split.values() if word in SPLITS})
    if split:
        chosen = [file for file, word in of_split.items() if word == split.lower()]
        if not chosen:
            names = ", ".join(Path(file).name for file in found[:5])
            raise UserError(f"{name}: no file there has a name that begins with {split}; there are {names}")
        return chosen
    if others and len({*of_split.values()}) > 1:
        words = list(dict.fromkeys(of_split.values()))
        one = "train" if "train" in words else words[0]
        raise UserError(f"{name}: its files are of several splits ({', '.join(words)}); write {name}:{one}")
    return found


def _known_files(name: str, paths: list[str], missing: str) -> list[str]:
    found = [path for path in paths if kind_of(Path(path)) in SUFFIXES and Path(path).is_file()]
    if not found:
        raise UserError(f"{name}: {missing}")
    return found


def kind_of(path: Path) -> str:
    """The suffix that says how to read a file, `.gz` aside."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    return ".jsonl" if kind == ".ndjson" else kind


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _decode(name: str, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}:{number}: not UTF-8 text (byte {error.start + 1}); save the file as UTF-8") from error


def _lines(name: str, path: Path) -> Iterator[tuple[int, str]]:
    # Split at line feeds only: str.splitlines would also cut at U+2028 and its like, which stand inside strings.
    with _open(path) as handle, _unpacking(name):
        for number, raw in enumerate(handle, 1):
            yield number, _decode(name, number, raw)


@contextlib.contextmanager
def _unpacking(name: str) -> Iterator[None]:
    """A compressed file that cannot be read to its end is the user's to mend."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name}: broken or cut-off gzip file ({error}); pack or fetch it once more") from error


# ---- JSON ---------------------------------------------------------------------------------------------------------


def _is_array(name: str, path: Path) -> bool:
    """Whether a JSON file is one array (or one object over several lines) rather than one object per line."""
    lines = (line.strip() for _, line in _lines(name, path) if line.strip())
    if first := next(lines, ""):
        if first.startswith("[") and first.endswith("]"):  # or rows that are lists, one a line
            return not next(lines, "").startswith("[")
        return first.startswith("[") or (first.startswith("{") and not first.endswith("}"))
    raise UserError(f"{name}: the file is empty; write one example per line")


def _json(name: str, path: Path) -> Iterator[Record]:
    return _array(name, path) if _is_array(name, path) else _jsonl(name, path)


def _jsonl(name: str, path: Path) -> Iterator[Record]:
    for number, line in _lines(name, path):
        if not line.strip():
            continue
        try:
            record = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            raise UserError(f"{name}:{number}: broken JSON ({_reason(error)}); mend or remove the line") from error
        except ValueError as error:  # a whole number of more than 4,300 digits
            raise UserError(f"{name}:{number}: {str(error).split(';')[0]}; mend or remove the line") from error
        except RecursionError as error:
            raise UserError(f"{name}:{number}: JSON nested too deeply; mend or remove the line") from error
        yield number, _object(f"{name}:{number}", record)


def _reason(error: json.JSONDecodeError) -> str:
    return f"{error.msg} at column {error.colno}"


def _object(where: str, record: Any) -> dict[str, Any]:
    """A record as a mapping; the columns of a list are called by their place."""
    if isinstance(record, list):
        return ByPlace((str(place), value) for place, value in enumerate(record))
    if not isinstance(record, dict):
        raise UserError(f"{where}: a row must be an object with named columns, not {describe(record)}")
    return record


def describe(value: Any) -> str:
    """A JSON value in words, for errors."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _array(name: str, path: Path) -> Iterator[Record]:
    """The elements of one big array, decoded as they are read, so that the file never lies in memory as a whole."""
    with _open(path) as handle:
        text = _Window(name, handle)
        if text.skip(BLANK) != "[":
            raise UserError(
                f"{name}: the file is one object, not a list of rows or one row per line{_hint(name, path)}"
            )
        yield from _elements(name, text)


BLANK = " \t\r\n"


def _elements(name: str, text: _Window) -> Iterator[Record]:
    """The records of an array that `text` stands before; afterwards it stands behind it."""
    text.take(1)
    number = 0
    while (char := text.skip(BLANK)) != "]":
        if number and char != ",":
            raise UserError(f"{text.name}:{text.line}: broken JSON (expected a comma or ] after row {number}); mend it")
        if number:
            text.take(1)
            text.skip(BLANK)
        number += 1
        yield number, _object(f"{name} row {number}", text.value())
    text.take(1)


def _members(text: _Window) -> Iterator[str]:
    """The keys of an object that `text` stands before; it stands before the value, which is to be read at each."""
    text.take(1)
    begun = False
    while (char := text.skip(BLANK)) != "}":
        if begun and char != ",":
            raise UserError(f"{text.name}:{text.line}: broken JSON (expected a comma or }}); mend it")
        if begun:
            text.take(1)
            text.skip(BLANK)
        begun = True
        key = text.value()
        if not isinstance(key, str) or text.skip(BLANK) != ":":
            raise UserError(f"{text.name}:{text.line}: broken JSON (expected a name and a colon); mend it")
        text.take(1)
        text.skip(BLANK)
        yield key


def _split_of_object(name: str, path: Path, split: str) -> Iterator[Record]:
    """The records of one of the lists that an object holds."""
    with _open(path) as handle:
        text = _Window(str(path), handle)
        if text.skip(BLANK) == "{":
            for key in _members(text):
                if key == split and text.skip(BLANK) == "[":
                    yield from _elements(name, text)
                    return
                text.value()
    raise UserError(f"{name}: {path.name} has no list {split}{_hint(str(path), path)}")


def refuse_splits(source: Source) -> None:
    """Say how to name a list inside a JSON file that is one object, and no row.

    Raises:
        UserError: If the first record of the source is such an object.
    """
    path, split = part_of(source.name)
    if not split and kind_of(path) == ".json" and (hint := _hint(source.name, path)):
        raise UserError(f"{source.name}: the file is one object, not a list of rows{hint}")


def _hint(name: str, path: Path) -> str:
    """Which lists of rows a file that is one object holds, and how to name one."""
    sizes: dict[str, int] = {}
    with _open(path) as handle:
        text = _Window(name, handle)
        if text.skip(BLANK) == "{":
            for key in _members(text):
                value = text.value()
                if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
                    sizes[key] = len(value)
    if not sizes:
        return ""
    lists = ", ".join(f"{key} ({count:,} row{'s' * (count > 1)})" for key, count in sizes.items())
    return f"; it holds {lists}: write {name}:{'train' if 'train' in sizes else next(iter(sizes))}"


class _Window:
    """A stretch of a text file that grows at its end and is consumed at its start."""

    def __init__(self, name: str, handle: IO[bytes]) -> None:
        self.name, self.handle = name, handle
        self.text, self.at, self.line = "", 0, 1
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.json = json.JSONDecoder()

    def grow(self, size: int = 1 << 20) -> bool:
        with _unpacking(self.name):
            raw = self.handle.read(size)
        try:
            more = self.decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name}: not UTF-8 text; save the file as UTF-8") from error
        self.text, self.at = self.text[self.at :] + more, 0
        return bool(raw)

    def take(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def skip(self, chars: str) -> str:
        """The next character that is none of `chars`."""
        while True:
            while self.at < len(self.text):
                char = self.text[self.at]
                if char not in chars:
                    return char
                self.take(1)
            if not self.grow():
                raise UserError(f"{self.name}:{self.line}: broken JSON (the file ends inside the list); mend its end")

    def value(self) -> Any:
        """The JSON value that begins here."""
        size = 1 << 20
        while True:
            try:
                value, end = self.json.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                line = self.line + self.text.count("\n", self.at, error.pos)
                # It may only be that the value goes on beyond the window: look again with twice as much text.
                if self.grow(size):
                    size *= 2
                    continue
                raise UserError(f"{self.name}:{line}: broken JSON ({_reason(error)}); mend it") from error
            except ValueError as error:  # a whole number of more than 4,300 digits
                raise UserError(f"{self.name}:{self.line}: {str(error).split(';')[0]}; mend it") from error
            self.take(end - self.at)
            return value


# ---- the others ---------------------------------------------------------------------------------------------------


def _csv(name: str, path: Path) -> Iterator[Record]:
    csv.field_size_limit(1 << 30)  # the default of 128 KiB is less than one long document
    texts = (text for _, text in _lines(name, path))
    reader = csv.reader(texts, delimiter="\t" if kind_of(path) == ".tsv" else ",", strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise UserError(f"{name}:1: two columns have the same name; rename one")
        start = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{name}:{start}: {len(cells)} fields, but the header has {len(header)}; quote the commas"
                )
            if cells:
                yield start, dict(zip(header, cells, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: broken CSV ({error}); mend the quotes of the line") from error


def _parquet(name: str, path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _text(name: str, path: Path) -> Iterator[Record]:
    """Paragraphs: blocks between blank lines; or single lines, in a file without blank lines between them."""
    blocks = _in_blocks(name, path)
    start, block = 0, list[str]()
    for number, line in chain(_lines(name, path), [(0, "")]):
        if block and (not line.strip() or not blocks):
            yield start, {"text": "".join(block).strip("\r\n")}
            block = []
        if line.strip():
            start = number if not block else start
            block.append(line)


def _in_blocks(name: str, path: Path) -> bool:
    """Whether a blank line has text before and after it."""
    begun = blank = False
    for _, line in _lines(name, path):
        if line.strip():
            if blank:
                return True
            begun = True
        else:
            blank = begun
    return False


SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` of a DatasetDict or a Dataset leaves."""


def _is_saved(path: Path) -> bool:
    """Whether a folder holds a data set that `datasets` saved."""
    return any((path / name).is_file() for name in SAVED)


def _saved(name: str, path: Path, split: str) -> Source:
    """A data set as `save_to_disk` left it."""
    import datasets

    if not _is_saved(path):
        raise UserError(f"{name}: is a directory; give one of its files: {', '.join(files_of(name)[:5])}")
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: the saved data set cannot be read ({_first_line(error)})") from error
    if not isinstance(found, datasets.Dataset):
        found = _choose_split(name, str(path), found, split)
    elif split:
        raise UserError(f"{name}: the saved data set has no splits; write {path}")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return _of_dataset(name, found, lambda: fingerprint([split, *map(_digest, files)]))


def _hub(name: str, revision: str | None) -> Source:
    """`owner/name`, `owner/name:config` or `owner/name:config:split` of the Hugging Face hub; default split: train."""
    missing = _missing(name)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]*){0,2}", name) or kind_of(Path(name)) in SUFFIXES:
        raise MissingFile(missing)
    if "/" not in name and "did you mean" in missing:
        raise MissingFile(missing)
    import datasets

    repo, config, split = [*name.split(":"), "", ""][:3]
    try:
        found = datasets.load_dataset(repo, config or None, revision=revision)
    except (OSError, ValueError) as error:  # not there, no network, several configurations
        raise MissingFile(f"{missing}; and the Hugging Face data set cannot be loaded: {_first_line(error)}") from error
    rows = _choose_split(name, f"{repo}:{config}", found, split)
    sums = sorted(rows.info.download_checksums or {})
    made = fingerprint([name, revision, rows.num_rows, str(rows.features), sums])
    return _of_dataset(name, rows, lambda: made)


def _choose_split(name: str, whole: str, found: Any, split: str) -> Any:
    """One split of a `DatasetDict`, by default `train`."""
    split = split or ("train" if "train" in found else next(iter(found)))
    if split not in found:
        one = next(iter(found))
        raise UserError(f"{name}: the data set has no split {split}; it has {', '.join(found)}: write {whole}:{one}")
    return found[split]


def _of_dataset(name: str, rows: Any, digest: Callable[[], str]) -> Source:
    """A `datasets.Dataset`; its class labels become their names."""
    labels = {key: feature for key, feature in rows.features.items() if hasattr(feature, "int2str")}

    def records() -> Iterator[Record]:
        for number, row in enumerate(rows, 1):
            known = {key: row[key] for key in labels if isinstance(row[key], int) and row[key] >= 0}
            yield number, dict(row) | {key: labels[key].int2str(value) for key, value in known.items()}

    return Source(name, False, rows.num_rows > ROWS_IN_MEMORY, records, digest)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class MissingFile(UserError):
    """A data file that is not there."""


def _missing(name: str) -> str:
    path = Path(name).expanduser()
    folder = path.parent
    if not folder.is_dir():
        return f"{name}: no such file (there is no directory {folder})"
    names = [f.name for f in folder.iterdir() if f.is_file()]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"{name}: no such file" + (f"; did you mean {folder / close[0]}?" if close else "")
