"""How long a user waits: for help, for an import, and from the command to the first training step, beside TRL.

Each is a command in a process of its own, run in turn with its counterpart three times; the median counts. The first
step is that of a run on the laboratory model: `holdfast train` with a recipe that measures nothing first
(`evaluate.target: none`, nothing kept), until the first line of its log appears; of TRL, `trl sft` with the same model
and the same rows in a JSONL file, until it reports its first step (`--logging_steps 1`). Both are stopped by their own
limit of one step; what comes after the first step is not counted. If the command of TRL fails, the reason stands in
the note, and a script of a few lines with `SFTTrainer` takes its place.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import Line, at_most, environment, judged, line, main, reason, say

SCRIPT = """
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer
data = load_dataset("json", data_files={data!r}, split="train")
args = SFTConfig(output_dir={out!r}, max_steps=1, logging_steps=1, per_device_train_batch_size=16, bf16=False,
                 gradient_checkpointing=False, use_cpu=True, report_to="none", save_strategy="no")
SFTTrainer({model!r}, args=args, train_dataset=data).train()
"""
RECIPE = """
model: {model}
data: {{train: {data}, test: 0}}
train: {{max_steps: 1, batch_tokens: 1024}}
evaluate: {{target: none, keep: [], every: 0}}
output: {out}
"""


def until(command: Sequence[str], there: Callable[[], bool] | re.Pattern[str] | None, timeout: float = 180) -> float:
    """Seconds from the start of a command until its end, or until a sign: a pattern in its output, or `there()`.

    Raises:
        RuntimeError: If it fails or ends without the sign.
    """
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment(), stdout=output, stderr=subprocess.STDOUT, text=True)
        try:
            while time.perf_counter() - began < timeout:
                ended = process.poll() is not None
                if there is not None and _seen(there, output.fileno()):
                    return time.perf_counter() - began
                if ended:
                    seconds = time.perf_counter() - began
                    if process.returncode or there is not None:
                        raise RuntimeError(_last(output.fileno()) or f"exit code {process.returncode}")
                    return seconds
                time.sleep(0.005)
            raise RuntimeError(f"no result after {timeout:.0f} s")
        finally:
            process.kill()
            process.wait()


def _seen(there: Callable[[], bool] | re.Pattern[str], output: int) -> bool:
    return bool(there.search(_text(output))) if isinstance(there, re.Pattern) else there()


def _text(output: int) -> str:
    """What a file holds so far, leaving the place where the child writes alone."""
    return Path(f"/proc/self/fd/{output}").read_text(errors="replace")


def _last(output: int) -> str:
    return (_text(output).strip().splitlines() or [""])[-1][:300]


def tool(name: str) -> str:
    """The path of a command beside this Python."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name


def write_rows(path: Path) -> None:
    """200 conversations of the laboratory."""
    from holdfast.skills.rows import lab_rows

    with path.open("w", encoding="utf-8") as handle:
        for row in lab_rows("lab:story", "train", 200):
            handle.write(json.dumps({"messages": row.messages}) + "\n")


def first_step_ours(directory: Path, model: str) -> float:
    """Command to the first line of the run's log."""
    out = Path(tempfile.mkdtemp(dir=directory)) / "run"
    file = directory / "run.yaml"
    file.write_text(RECIPE.format(model=model, data=directory / "rows.jsonl", out=out))
    log = out / "log.jsonl"
    return until([tool("holdfast"), "train", str(file)], lambda: log.exists() and log.stat().st_size > 0)


def first_step_command(directory: Path, model: str) -> float:
    """`trl sft` to its first report."""
    command = [
        tool("trl"), "sft", "--model_name_or_path", model, "--dataset_name", str(directory / "data"),
        "--output_dir", tempfile.mkdtemp(dir=directory), "--max_steps", "1", "--logging_steps", "1", "--bf16", "false",
        "--per_device_train_batch_size", "16", "--gradient_checkpointing", "false", "--use_cpu", "true",
        "--report_to", "none", "--save_strategy", "no",
    ]  # fmt: skip
    return until(command, re.compile(r"'loss'"))


def first_step_script(directory: Path, model: str) -> float:
    """A script with TRL's trainer to its first report."""
    out = tempfile.mkdtemp(dir=directory)
    code = SCRIPT.format(data=str(directory / "rows.jsonl"), out=out, model=model)
    return until([sys.executable, "-c", code], re.compile(r"'loss'"))


def lab_model(directory: Path) -> str:
    """The laboratory model in fp32 with a chat template of TRL's liking, saved for both sides."""
    from holdfast.models import loading, saving

    loaded = loading.load_model("lab")
    return str(saving.save_model(loaded.model, loaded.tokenizer, directory / "model"))


def turns(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, Any]]:
    """Median seconds of each way, run in turn; a way that fails once is told and left out."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    errors: dict[str, str] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            if name in errors:
                continue
            try:
                seconds[name].append(way())
            except RuntimeError as error:
                errors[name] = str(error)
            say(f"    {name}: {errors.get(name) or round(seconds[name][-1], 2)}")
    return {
        name: {"error": errors[name]} if name in errors else {"seconds": statistics.median(all_of), "all": all_of}
        for name, all_of in seconds.items()
    }


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """Help, import, first step."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_rows(directory / "rows.jsonl")
        (directory / "data").mkdir()
        shutil.copy(directory / "rows.jsonl", directory / "data" / "train.jsonl")
        model = lab_model(directory)
        ways: dict[str, Callable[[], float]] = {
            "help ours": lambda: until([tool("holdfast"), "--help"], None),
            "help theirs": lambda: until([tool("trl"), "--help"], None),
            "import ours": lambda: until([python, "-c", "import holdfast"], None),
            "import theirs": lambda: until([python, "-c", "import trl"], None),
            "training import ours": lambda: until(
                [python, "-c", "from holdfast.training.trainer import Trainer"], None
            ),
            "training import theirs": lambda: until([python, "-c", "from trl import SFTTrainer"], None),
            "first step ours": lambda: first_step_ours(directory, model),
            "first step theirs": lambda: first_step_command(directory, model),
            "first step script": lambda: first_step_script(directory, model),
        }
        found = turns(ways, 1 if tiny else 2)
    return lines_of(found), found


def lines_of(found: dict[str, dict[str, Any]]) -> list[Line]:
    """The table's lines."""
    ours = {name.removesuffix(" ours"): part for name, part in found.items() if name.endswith("ours")}
    lines = []
    for name, we in ours.items():
        they, note = found[f"{name} theirs"], reason(we, found[f"{name} theirs"])
        if name == "first step":
            other = found["first step script"]
            runs = [way for way in (they, other) if "seconds" in way]
            chosen = min(runs, key=lambda way: way["seconds"]) if runs else they
            note = note and f"trl sft: {note}; its trainer in a script instead"
            share = we["seconds"] / chosen["seconds"] if "seconds" in we and "seconds" in chosen else None
            lines.append(
                judged(
                    "command to first step",
                    we.get("seconds"),
                    chosen.get("seconds"),
                    share,
                    "s",
                    at_most(0.333),
                    note=note,
                )
            )
            continue
        lines.append(line(name, we.get("seconds"), they.get("seconds"), "s", less_is_better=True, note=note))
        if name == "help":
            lines[-1:] = [
                lines[-1],
                judged("help, seconds", we.get("seconds"), None, we.get("seconds"), "s", at_most(0.4)),
            ]
    return lines


if __name__ == "__main__":
    main("start", measure, {})
