"""The law of the house: imports run downward, methods of one axis know no other axis, nothing forbidden is used."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "holdfast"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports` with the contracts of `.importlinter` on the package in `folder/src`."""
    command = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command as run; run()"]
    options = ["--no-cache", "--no-logo", str(ROOT / ".importlinter")]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "120"}
    return subprocess.run([*command, *options], capture_output=True, text=True, cwd=folder, env=environment)


def test_imports_run_downward_and_in_no_circle() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/mixture.py", "from holdfast import cli"),
        ("methods/objectives/likelihood/sft.py", "def late():\n    from holdfast.pipeline.run import train_one"),
    ],
)
def test_an_import_upward_is_seen(file: str, line: str, tmp_path: Path) -> None:
    shutil.copytree(
        SOURCE, tmp_path / "src" / "holdfast", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__")
    )
    path = tmp_path / "src" / "holdfast" / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{line}\n", encoding="utf-8")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert f"holdfast.{file.removesuffix('.py').replace('/', '.')} ->" in done.stdout, done.stdout


def test_the_root_holds_packages_only() -> None:
    assert {p.name for p in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


FORBIDDEN = {
    "pickle": re.compile(r"^\s*(import|from) (pickle|dill|joblib|cloudpickle)\b|torch\.load\(", re.M),
    "trust_remote_code": re.compile(r"trust_remote_code\s*=\s*True"),
    "private imports": re.compile(r"^\s*from (torch|transformers|peft|accelerate|datasets|trl)[\w.]* import _", re.M),
    "bare except": re.compile(r"except\s*:|except Exception:\s*\n\s*pass"),
}


def test_nothing_forbidden() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for what, pattern in FORBIDDEN.items():
            assert not pattern.search(text), f"{path}: {what}"


def test_the_picture_is_that_of_the_imports() -> None:
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    house = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(house)
    assert (ROOT / "docs" / "house.svg").read_text(encoding="utf-8") == house.draw(), "run python docs/house.py"


def test_the_page_names_files_that_are_there_and_needs_few_of_them() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_0-9/]+(?:\.py|/))`", page.replace("src/holdfast/", ""))
    missing = [name for name in named if not (SOURCE / name).exists()]
    assert not missing
    hops = re.findall(r"^(\d+)\. ", page, flags=re.M)
    assert [int(hop) for hop in hops] == list(range(1, len(hops) + 1))
    assert 10 <= len(hops) <= 15
