# ruff: noqa: E501 (lines of error stand as they are)
"""Files that are broken, cut off, hostile or just unusual: read to their end, or refused in one line with the place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.data.reading.formats import RowFile, open_rows
from holdfast.data.reading.json_stream import DEEPEST, LONGEST
from holdfast.errors import UserError

ROW = b'{"prompt": "Q", "completion": "A"}'
BOM = b"\xef\xbb\xbf"
LONG = b'{"prompt": "Q", "completion": "' + b"x" * LONGEST + b'"}'
DEEP = b'{"prompt": "Q", "completion": "A", "x": ' + b"[" * 100_000
NESTED = b'{"prompt": "Q", "completion": "A", "x": %b%b}'
MORE = "nothing of it would be read: put all rows into one list, or one a line"
CR = "save the file with LF line ends"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parquet(name: str = "a.parquet", rows: int = 3) -> bytes:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([{"prompt": f"Q{i}", "completion": "A" * 50} for i in range(rows)])
    pyarrow.parquet.write_table(table, name, compression="snappy", use_dictionary=False)
    return Path(name).read_bytes()


READ = {
    "bom-in-the-middle.jsonl": (BOM + ROW + b"\n" + BOM + ROW + b"\n", 2),
    "bom-in-the-middle.csv": (BOM + b"prompt,completion\nQ,A\n" + BOM + b"R,A\n", 2),
    "bom-in-the-middle.txt": (BOM + b"one\n" + BOM + b"two\n", 2),
    "last-line-empty.txt": (b"one\ntwo\nthree\n\n", 3),
    "first-line-empty.txt": (b"\none\ntwo\n", 2),
    "cr-inside.txt": (b"one\rand\ntwo\n", 2),
    "crlf.jsonl": (ROW + b"\r\n\r\n" + ROW + b"\r\n", 2),
    "no-last-line-end.jsonl": (ROW + b"\n" + ROW, 2),
    "blanks-after-the-list.json": (b"[" + ROW + b",\n" + ROW + b"]\n \r\n\t", 2),
    "split-not-the-first.json:b": (b'{"a": [1, [2]], "b": [' + ROW + b'], "c": {"d": []}}', 1),
    "deep-enough.jsonl": (NESTED % (b"[" * (DEEPEST - 1), b"]" * (DEEPEST - 1)), 1),
    "brackets-in-text.jsonl": (json.dumps({"prompt": "[{" * 500, "completion": '"' + "[" * 500}).encode(), 1),
    "many-turns.jsonl": (json.dumps({"messages": [{"role": ("user", "assistant")[i % 2], "content": "x"} for i in range(2000)]}).encode(), 1),
    "two-members.jsonl.gz": (gzip.compress(ROW + b"\n") + gzip.compress(ROW + b"\n"), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_unusual_files_are_read_to_their_end(name: str) -> None:
    content, count = READ[name]
    Path(name.partition(":")[0]).write_bytes(content)
    rows = open_rows(name)
    assert len(rows) == count
    assert all("\ufeff" not in message["content"] for row in rows for message in row.messages)


REFUSED = {
    # text where none is read
    "list-and-more.json": (b"[\n" + ROW + b"]\n[" + ROW + b"]", f":3: there is more after the end of the list; {MORE}"),
    "list-and-row.json": (b"[" + ROW + b",\n" + ROW + b"\n] " + ROW, f":3: there is more after the end of the list; {MORE}"),
    "object-and-more.json:a": (b'{"a": [' + ROW + b"]}\n}", f":2: there is more after the end of the object; {MORE}"),
    "split-twice.json:a": (b'{"a": [' + ROW + b'],\n"a": [' + ROW + b"]}", ":2: the key 'a' stands twice in one object; rename one"),
    "cut-behind-the-split.json:a": (b'{"a": [' + ROW + b'], "b": [1, 2', ":1: broken JSON (the file ends inside the list); mend its end"),
    # keys and rows that would be lost
    "key-twice.jsonl": (ROW + b'\n{"prompt": "Q", "prompt": "R", "completion": "A"}', ":2: broken JSON (the key 'prompt' stands twice in one object); mend or remove the line"),
    "key-twice.json": (b"[" + ROW + b',\n{"prompt": "Q", "completion": "A", "m": {"a": 1, "a": 2}}]', ":2: broken JSON (the key 'a' stands twice in one object); mend it"),
    "column-twice.csv": (b"prompt,prompt,completion\nQ,R,A\n", ":1: two columns have the same name; rename one"),
    "header-twice.csv": (b"prompt,completion\nQ,A\n" + BOM + b"prompt,completion\nR,A\n", ":3: the header stands here once more; remove the line"),
    "two-on-a-line.jsonl": (ROW + b"\n" + ROW + ROW, ":2: broken JSON (Extra data at column 35); two rows stand on one line; put each on a line of its own"),
    "joined.jsonl": (ROW + BOM + ROW, ":1: broken JSON (Extra data at column 35); two rows stand on one line; put each on a line of its own"),
    # line ends
    "cr.jsonl": (ROW + b"\r" + ROW + b"\r", f":1: broken JSON (Extra data at column 36); its rows end in a lone CR, as on old Macs; {CR}"),
    "cr.csv": (b"prompt,completion\rQ,A\r", f":1: a lone CR ends a line here, as on old Macs; {CR}"),
    "cr.txt": (b"one\rtwo\rthree\r", ":1: its lines end in a lone CR, as on old Macs; save it with LF line ends"),
    "utf-16.txt": ("Q\n".encode("utf-16-le"), ":1: holds NUL bytes, so it is UTF-16 or no text; save it as UTF-8, or leave it out"),
    "latin-1.txt": ("ok\ncaf\xe9\n".encode("latin-1"), ":2: not UTF-8 text (byte 4); save the file as UTF-8"),
    "empty.txt": (b"", ": the file is empty; leave it out, or write a text into it"),
    "blank.txt": (b"\n \n", ": there are no rows in it; write one example per line"),
    "utf-16.jsonl": (ROW.decode().encode("utf-16"), ":1: not UTF-8 text (byte 1); save the file as UTF-8"),
    # bounds
    "deep.jsonl": (ROW + b"\n" + DEEP, ":2: broken JSON (nested more than 100 deep); mend or remove the line"),
    "deep.json": (b"[" + ROW + b",\n" + DEEP, ":2: broken JSON (nested more than 100 deep); mend it"),
    "too-deep.jsonl": (NESTED % (b"[" * DEEPEST, b"]" * DEEPEST), ":1: broken JSON (nested more than 100 deep); mend or remove the line"),
    "too-deep.json": (b"[" + NESTED % (b"[" * DEEPEST, b"]" * DEEPEST) + b"]", ":1: broken JSON (nested more than 100 deep); mend it"),
    "deep-cell.csv": (b'messages\n"[{""role"": ""user"", ""content"": ' + b"[" * 5000 + b'"\n', ":2: field messages is broken JSON (nested more than 100 deep); remove the row or mend it"),
    "long.jsonl": (ROW + b"\n" + LONG, ":2: the line is longer than 16 MiB; cut it into several rows"),
    "long.json": (b"[" + ROW + b",\n" + LONG + b"]", ":2: row 2 is longer than 16 MiB; cut it into several rows"),
    "long.csv": (b'prompt,completion\nQ,"' + (b"x" * (LONGEST // 2) + b"\n") * 2 + b'"\n', r"re::\d+: a field is longer than 16 MiB; cut it into several rows, or close a quote before it"),
    "long.txt": (b"x" * (LONGEST + 1), ":1: the line is longer than 16 MiB; cut it into several rows"),
    "long.jsonl.gz": (gzip.compress(LONG, 1), ":1: the line is longer than 16 MiB; cut it into several rows"),
    "digits.jsonl": (b'{"prompt": "Q", "completion": "A", "n": ' + b"9" * 5000 + b"}", r"re::1: broken JSON \(Exceeds the limit \(4300 digits\) .*\); mend or remove the line"),
    "digits.json": (b"[" + ROW + b',\n{"n": ' + b"9" * 5000 + b"}]", r"re::2: broken JSON \(Exceeds the limit \(4300 digits\) .*\); mend it"),
    "score.jsonl": (b'{"prompt": "Q", "completion": "A", "score": 1' + b"0" * 400 + b"}", ":1: field score is not a number (a whole number of about 400 digits); remove the row or mend it"),
    "weight.jsonl": (b'{"prompt": "Q", "completion": "A", "weight": 1' + b"0" * 400 + b"}", ":1: field weight is not a number (a whole number of about 400 digits); remove the row or mend it"),
    "columns.jsonl": (json.dumps({f"c{i}": 1 for i in range(100_000)}).encode(), r"re::1: no known format has the columns c0, c1, c10, (c\d+, ){8}c\d+ and 99988 more; say which is which"),
    # cut off, or not what the name says
    "not.jsonl.gz": (ROW, r"re:: broken or cut-off gzip file \(Not a gzipped file .*\); pack or fetch it once more"),
    "cut.jsonl.gz": (gzip.compress(ROW * 50)[:-12], ": broken or cut-off gzip file (Compressed file ended before the end-of-stream marker was reached); pack or fetch it once more"),
    "tail.jsonl.gz": (gzip.compress(ROW) + b"more", r"re:: broken or cut-off gzip file \(Not a gzipped file .*\); pack or fetch it once more"),
    "nul.parquet": (b"PAR1" + bytes(64) + b"PAR1", r"re:: not a readable Parquet file \(.*\); write it anew"),
    "zip.parquet": (b"PK\x03\x04" + bytes(64), r"re:: not a readable Parquet file \(.*\); write it anew"),
    "cut.jsonl": (ROW + b"\n" + ROW[:-4], ":2: broken JSON (Expecting value at column 31); mend or remove the line"),
    "nul.jsonl": (ROW + b"\n" + bytes(9), ":2: broken JSON (Expecting value at column 1); mend or remove the line"),
}  # fmt: skip


def refusal(name: str) -> str:
    with pytest.raises(UserError) as error:
        open_rows(name)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_used_are_refused_with_the_place(name: str) -> None:
    import re

    content, line = REFUSED[name]
    file = name.partition(":")[0]
    Path(file).write_bytes(content)
    said = refusal(name)
    if line.startswith("re:"):
        assert re.match(re.escape(file) + line.removeprefix("re:"), said), said
    else:
        assert said in (file + line, name + line)


def test_a_broken_page_of_parquet_is_named() -> None:
    content = bytearray(parquet(rows=2000))
    content[600:800] = bytes(200)
    Path("page.parquet").write_bytes(content)
    assert refusal("page.parquet").startswith("page.parquet: not a readable Parquet file (")
    Path("cut.parquet").write_bytes(parquet()[:-20])
    assert refusal("cut.parquet").startswith("cut.parquet: not a readable Parquet file (")


def test_a_small_file_that_unpacks_to_a_large_one_is_read_on_disk(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import holdfast.data.reading.readers as readers

    monkeypatch.setattr(readers, "IN_MEMORY", 20_000)
    Path("small.jsonl.gz").write_bytes(gzip.compress((ROW + b"\n") * 1000))
    assert Path("small.jsonl.gz").stat().st_size < 1000
    assert isinstance(open_rows("small.jsonl.gz", cache=here / "cache"), RowFile)
    assert len(open_rows("small.jsonl.gz", cache=here / "cache")) == 1000
    parquet("small.parquet", 2000)
    assert Path("small.parquet").stat().st_size < 50_000
    assert isinstance(open_rows("small.parquet", cache=here / "cache"), RowFile)


def test_a_saved_data_set_that_lacks_something_is_named(here: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{"prompt": "Q", "completion": "A"}] * 3).save_to_disk("saved")
    assert len(open_rows("saved")) == 3
    for file, content in (("state.json", "{}"), ("state.json", "{"), ("dataset_info.json", "[1]")):
        good = (here / "saved" / file).read_text()
        (here / "saved" / file).write_text(content)
        said = refusal("saved")
        assert said.startswith("saved: the saved data set cannot be read (")
        assert said.endswith("; save it anew")
        (here / "saved" / file).write_text(good)
    arrow = next((here / "saved").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    assert refusal("saved").startswith("saved")


def test_the_command_ends_with_code_two_and_writes_nothing() -> None:
    def run(verb: str, file: str) -> Any:
        return CliRunner().invoke(app, [verb, "run.yaml", f"data.train={file}"])

    Path("run.yaml").write_text(
        "model: lab-small\ndata: {train: x, test: 0}\nevaluate: {target: none, keep: []}\noutput: out\n"
    )
    for name in ("cut.jsonl.gz", "nul.parquet", "deep.json", "digits.jsonl", "key-twice.jsonl", "list-and-more.json"):
        Path(name).write_bytes(REFUSED[name][0])
        for verb in ("check", "train"):
            done = run(verb, name)
            assert done.exit_code == 2, (name, done.output, done.exception)
            assert done.stderr.startswith(f"holdfast: {name}")
            assert done.stderr.count("\n") == 1
    assert not Path("out").exists()
