"""The directory that the board shows: whatever name a browser sends, it leads to a place inside, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from holdfast.board.refusal import Refusal
from holdfast.pipeline.run_dir import MARK

STATE = ".holdfast-board"
"""What the board itself writes: recipes it started, and what its processes said."""
DEPTH = 5
"""Folders below the directory in which runs are looked for."""
MOST_FOLDERS = 20_000
LONGEST_NAME, LONGEST_PATH = 255, 1024
"""Bytes of a name and letters of a path; no file system here has longer ones."""
INSIDE_RUNS = frozenset({"checkpoints", "diverged", "eval", "model", "stages"})
DATA = (".jsonl", ".json", ".csv", ".parquet", ".txt")


class RunsFolder:
    """A directory with run directories in it, at any depth.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def state(self) -> Path:
        """Where the board keeps what it writes."""
        return self.root / STATE

    def find_path(self, name: str) -> Path:
        """The place that a name stands for, links followed.

        Raises:
            Refusal: If it lies outside, is hidden, or no name at all.
        """
        parts = name.split("/")
        is_name = all(part and not part.startswith(".") and len(part.encode()) <= LONGEST_NAME for part in parts)
        if not is_name or "\0" in name or "\\" in name or len(name) > LONGEST_PATH:
            raise Refusal(404, "not_here", name=name[:200])
        try:
            path = (self.root / name).resolve()
        except (OSError, RuntimeError, ValueError):  # a name too long, a link to itself
            raise Refusal(404, "not_here", name=name[:200]) from None
        if path == self.root or not path.is_relative_to(self.root):
            raise Refusal(404, "not_here", name=name[:200])
        return path

    def find_run(self, name: str) -> Path:
        """The run directory of a name.

        Raises:
            Refusal: If there is none.
        """
        path = self.find_path(name)
        if not (path / MARK).is_file():
            raise Refusal(404, "no_run", name=name[:200])
        return path

    def name_of(self, path: Path) -> str:
        """The inverse of `find_path`."""
        return path.relative_to(self.root).as_posix()

    def list_runs(self) -> list[Path]:
        """Every run directory; links that lead elsewhere are not followed."""
        return [path for path, files in self._walk_folders() if MARK in files]

    def list_files(self, endings: tuple[str, ...], most: int = 500) -> list[str]:
        """Names of files that end so, but for what runs have written."""
        names: list[str] = []
        for path, files in self._walk_folders():
            if MARK not in files:
                names += [self.name_of(path / file) for file in files if file.endswith(endings)]
            if len(names) >= most:
                break
        return sorted(names)[:most]

    def _walk_folders(self) -> Iterator[tuple[Path, list[str]]]:
        """Folders with the names of their files; those inside of a run are left out."""
        todo, visits = [(self.root, 0)], 0
        while todo and visits < MOST_FOLDERS:
            folder, depth = todo.pop()
            visits += 1
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
            yield folder, files
            inner = [
                entry for entry in entries if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
            if depth < DEPTH:
                skip = INSIDE_RUNS if MARK in files else frozenset()
                todo += [(folder / entry.name, depth + 1) for entry in inner if entry.name not in skip]
