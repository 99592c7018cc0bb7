"""The real program in its own process: help, list, show, errors; none of it may import torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast as package

SPY = """
import sys
from holdfast.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "numpy", "datasets", "peft"} & set(sys.modules)
    print("HEAVY", sorted(heavy), file=sys.stderr)
"""


def holdfast(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SPY, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "PYTHONPATH": str(Path(package.__file__).parents[1]), **environment},
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["list"], ["show", "s3ft"], ["show", "recipe"]], ids=" ".join
)
def test_looking_things_up_imports_nothing_heavy(arguments: list[str]) -> None:
    done = holdfast(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "HEAVY []"


def test_a_bad_recipe_is_one_line_each_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: lab\ndata: {train: lab:story}\nlerning_rate: 3\ntrain: {epochs: x}\n")
    done = holdfast("train", "r.yaml", "optimizer.betta=1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "holdfast: r.yaml:3: lerning_rate is not a setting; did you mean optimizer.learning_rate?",
        "holdfast: r.yaml:4: train.epochs must be a number, not 'x'",
        "holdfast: command line: optimizer.betta is not a setting; did you mean optimizer.betas?",
        "HEAVY []",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.yaml"], "nothing half-written"
    again = holdfast("train", "r.yaml", "-v", cwd=tmp_path)
    assert again.returncode == 2
    assert "Traceback" in again.stderr


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m holdfast show recipe | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("setting")
    assert done.stderr == ""


def test_the_module_runs_too() -> None:
    done = subprocess.run([sys.executable, "-m", "holdfast", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout[:9]) == (0, "holdfast ")
