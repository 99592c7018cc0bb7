"""Programs for the sandbox's tests, in text files: `### NAME`, the program, and each test behind a line `--- test`."""

from __future__ import annotations

from pathlib import Path

from holdfast.sandbox.pool import CheckedProgram


def read_programs(name: str, tests: tuple[str, ...] = ()) -> dict[str, CheckedProgram]:
    """The programs of a file in `tests/sandbox` by name; `tests` for those that have none."""
    out = {}
    for block in ("\n" + (Path(__file__).parent / "sandbox" / name).read_text(encoding="utf-8")).split("\n### ")[1:]:
        title, _, text = block.partition("\n")
        source, *own = text.split("\n--- test\n")
        out[title] = CheckedProgram((source,), tuple(own) or tests)
    return out
