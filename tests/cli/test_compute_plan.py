"""`check` says how a training would be computed, `train` says it in the same lines; short memory ends in advice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.generation.growing_batch import GrowingBatch
from holdfast.models.policy import Policy
from holdfast.pipeline import estimate as pipeline_estimate

RECIPE = """\
model: tiny
data: {train: rows.jsonl}
train: {max_steps: 1, batch_tokens: 400, micro_tokens: 150, precision: fp32}
evaluate: {items: 4, live_items: 0, every: 0, max_tokens: 8, keep: [none]}
output: out
"""
LINES = ("attention", "compile", "precision", "gradient checkpointing", "micro-batch", "head")

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def files(place: Path, tiny) -> Path:
    model, tokenizer = tiny("llama")
    model.save_pretrained(place / "tiny")
    tokenizer.save_pretrained(place / "tiny")
    rows = [{"prompt": f"Sort these: {n}", "response": f"the answer is {n}" * (1 + n % 3)} for n in range(12)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def findings_of(*arguments: str) -> dict:
    return json.loads(run("check", "run.yaml", *arguments, "--json").strip().splitlines()[-1])


def test_check_and_train_say_the_same_in_lines(files) -> None:
    setting = "train.gradient_checkpointing=selective"
    findings, said = findings_of(setting), run("train", "run.yaml", setting).splitlines()
    plan, estimate = findings["plan"], findings["estimate"]
    assert (plan["layout"], plan["micro_tokens"]) == ("packed", 150)
    for label in LINES:
        assert f"{label}: {plan[label.replace(' ', '_').replace('-', '_')]}" in said
    parts = estimate["memory_parts"]
    assert list(parts) == ["weights", "gradients", "optimizer_states", "activations", "head", "program"]
    assert sum(parts.values()) == pytest.approx(estimate["memory_gib"])
    weights = plan["parameters"] * 4 / 2**30
    assert (parts["weights"], parts["gradients"]) == pytest.approx((weights, weights))
    without_program = {name for name in parts if name != "program"}
    line = next(line for line in said if line.startswith("memory: about "))
    assert all(name.replace("_", " ") in line for name in without_program)
    shown = run("check", "run.yaml")
    assert "micro-batch" in shown
    assert "micro tokens" not in shown
    assert "optimizer states" in shown


def test_a_gpu_that_is_not_here_is_planned_for(files) -> None:
    auto = ["train.precision=auto", "train.micro_tokens=null"]
    findings = findings_of("--device-memory", "80", *auto)
    plan, estimate = findings["plan"], findings["estimate"]
    assert plan["attention"] == "varlen (packed), if the trial on the GPU agrees"
    assert plan["compile"] == "on, layer by layer"
    assert plan["precision"] == "weights fp32; computed in bf16; optimizer states fp32"
    assert plan["head_rows"] == 4096
    assert plan["micro_batch"].startswith("at most 400 tokens: ")
    assert estimate["seconds"] is None
    assert "program" not in estimate["memory_parts"]
    drafted = findings_of("--device-memory", "80", *auto, "sampling.draft=tiny")["estimate"]
    assert drafted["memory_parts"]["draft"] == pytest.approx(plan["parameters"] * 4 / 2**30)
    assert drafted["memory_gib"] - estimate["memory_gib"] == pytest.approx(drafted["memory_parts"]["draft"])
    small = findings_of("--device-memory", "0.5004", *auto)["plan"]
    assert small["micro_tokens"] < 400, "the driver takes half a GiB"
    assert "--device-memory must be the GiB of a GPU" in run("check", "run.yaml", "--device-memory", "-1", code=2)


def test_what_stands_against_lengths_on_a_gpu_is_read_from_outside(files, tiny) -> None:
    model, _ = tiny("gemma2")
    model.save_pretrained(files / "tiny")
    findings = findings_of("--device-memory", "80", "train.precision=auto")
    assert findings["plan"]["attention"] == "eager (padded): gemma2 caps its attention scores"


def test_short_memory_in_eval_and_curate_ends_in_advice(files, monkeypatch) -> None:
    """Scoring goes on in smaller groups; where one text is too much, or sampling is, the line says what helps."""
    (files / "texts.txt").write_text("\n\n".join(f"Text {n} is longer than none." * n for n in range(1, 9)))
    plain, room, groups = Policy.token_logps, [10_000], []

    def score_little(self, batch, *args, **kwargs):
        if batch.input_ids.numel() > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")
        groups.append(len(batch.input_ids))
        return plain(self, batch, *args, **kwargs)

    def score_texts(code: int = 0) -> str:
        monkeypatch.setenv("HOLDFAST_CACHE", str(files / f"cache-{room[0]}"))
        groups.clear()
        return run("eval", "tiny", "text:texts.txt", "--json", code=code)

    monkeypatch.setattr(Policy, "token_logps", score_little)
    wanted = json.loads(score_texts().strip().splitlines()[-1])["report"]["tasks"][0]
    few = len(groups)
    room[0] = 1200
    got = json.loads(score_texts().strip().splitlines()[-1])["report"]["tasks"][0]
    assert got["tuned"] == pytest.approx(wanted["tuned"])
    assert len(groups) >= few
    room[0] = 5
    assert "not enough memory on cpu even for one text of" in score_texts(code=1)

    def find_no_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")

    monkeypatch.setattr(GrowingBatch, "decode_step", find_no_memory)
    for verb in (
        ["eval", "tiny", "rows.jsonl", "--judge", "exact"],
        ["curate", "run.yaml", "method=s3ft", "judge=exact"],
    ):
        last = run(*verb, code=1).strip().splitlines()[-1]
        assert last.startswith("holdfast: not enough memory. Sampling needs less with fewer sampling.slots")


def test_sampling_is_divided_over_workers_as_far_as_there_are_cores(files, monkeypatch) -> None:
    monkeypatch.setattr(pipeline_estimate, "_time_fastest_pass", lambda forward, ids: 1.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ("curate=sdft", "sampling.max_tokens=8")
    one, two, nine = (
        findings_of(*words, f"sampling.workers={count}")["estimate"]["sampling_seconds"] for count in (1, 2, 9)
    )
    assert (two, nine) == pytest.approx((one / 2, one / 4))
