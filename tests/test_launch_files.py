"""The files of examples/launch: all are read, and that of Slurm is run with others in the places of its commands."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parent.parent / "examples" / "launch"
SRUN = """#!/usr/bin/env bash
shift
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1
exec "$@"
"""
"""Runs one task in its own place, so that a signal to it reaches the task."""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> said
if [ "$1" = show ]; then printf 'first\\nsecond\\n'; fi
"""
PYTHON = """#!/usr/bin/env bash
echo "$@, $RANK of $WORLD_SIZE at $MASTER_ADDR" > started.partial
trap 'exit "$CODE"' USR1
mv started.partial started
if [ "$WAITS" = no ]; then exit "$CODE"; fi
while true; do sleep 0.02; done
"""


def start(place: Path, code: int, waits: str) -> subprocess.Popen[bytes]:
    """The job, with a run that ends with `code` when it is signalled, or at once."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", PYTHON)):
        (place / name).write_text(text, encoding="utf-8")
        (place / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_ID": "7", "CODE": str(code), "WAITS": waits}
    env = {**os.environ, "PATH": f"{place}{os.pathsep}{os.environ['PATH']}", **slurm}
    return subprocess.Popen(["bash", LAUNCH / "slurm.sh", "run.yaml", "output=my runs"], cwd=place, env=env)


def test_a_slurm_job_passes_the_warning_on_and_goes_into_the_queue_again(tmp_path: Path) -> None:
    job = start(tmp_path, 130, "yes")
    while not (tmp_path / "started").exists():
        assert job.poll() is None
        time.sleep(0.005)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 130
    assert (tmp_path / "started").read_text() == "-m holdfast train run.yaml output=my runs, 0 of 1 at first\n"
    assert (tmp_path / "said").read_text().splitlines() == ["show hostnames node-[1-2]", "requeue 7"]


@pytest.mark.parametrize("code", [0, 2, 130])
def test_a_slurm_job_that_ends_by_itself_stays_ended(tmp_path: Path, code: int) -> None:
    assert start(tmp_path, code, "no").wait(60) == code
    assert "requeue" not in (tmp_path / "said").read_text()


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_each_file_can_be_read_and_says_where_it_was_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "not run" in text.lower()
    if path.suffix == ".yaml":
        task = yaml.safe_load(text)
        subprocess.run(["bash", "-n"], input=task["run"] + task["setup"], text=True, check=True)
        assert task["num_nodes"] == 2
        assert (LAUNCH.parent.parent / "examples/launch/torchrun.sh").exists()
        assert "examples/launch/torchrun.sh" in task["run"]
    else:
        subprocess.run(["bash", "-n", path], check=True)
        assert subprocess.run(["bash", path], capture_output=True, check=False).returncode == 2  # no recipe
        assert os.access(path, os.X_OK)
