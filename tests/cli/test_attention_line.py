"""`check` and the start of `train` say by what packed or padded rows attend; lengths change nothing in a run but that.

Where there is no GPU, a slow function stands in the place of torch's kernel.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.models import attention_choice
from varlen_reference import reference_varlen

RECIPE = """\
model: tiny
data: {train: rows.jsonl}
tuner: lora
train: {max_steps: 2, batch_tokens: 400, micro_tokens: 150, precision: fp32, gradient_checkpointing: true}
evaluate: {items: 4, live_items: 0, every: 0, max_tokens: 8}
output: out
"""
PAIRS = "objective={name: dpo}"

pytestmark = pytest.mark.usefixtures("place")


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def plan_of(file: str) -> str:
    return json.loads(run("check", file, "--json").strip().splitlines()[-1])["plan"]["attention"]


def write_files(place: Path, tiny, kind: str) -> None:
    model, tokenizer = tiny(kind)
    model.save_pretrained(place / "tiny")
    tokenizer.save_pretrained(place / "tiny")
    ask = "Here is a long story of a word and its letters, told for nobody but this question. Sort these: "
    rows = [{"prompt": f"{ask}{n}", "response": f"the answer is {n}" * (1 + n % 3)} for n in range(8)]
    pairs = [{"prompt": r["prompt"], "chosen": r["response"], "rejected": f"no {n}"} for n, r in enumerate(rows)]
    for name, lines in (("rows", rows), ("pairs", pairs)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def loss_of(place: Path, out: str) -> float:
    events = [json.loads(line) for line in (place / out / "events.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event.get("loss") is not None][-1]


def test_plan_and_log_name_attention_and_layout(place, tiny, monkeypatch):
    write_files(place, tiny, "gpt2")
    assert re.search(r"^attention +sdpa \(padded\)$", run("check", "run.yaml"), re.MULTILINE)
    assert "attention: sdpa (padded)\n" in run("train", "run.yaml")
    pairs = ["data.train=pairs.jsonl", PAIRS]
    assert "attention: sdpa (padded, pairs share their prompt)\n" in run("train", "run.yaml", *pairs, "output=masks")

    monkeypatch.setattr(attention_choice, "find_kernel", lambda device, dtype: (reference_varlen, ""))
    assert plan_of("run.yaml") == "varlen (packed)"
    assert "attention: varlen (packed)\n" in run("train", "run.yaml", "output=lengths")
    assert "attention: varlen (packed, pairs share their prompt)\n" in run("train", "run.yaml", *pairs, "output=keys")
    assert loss_of(place, "lengths") == pytest.approx(loss_of(place, "out"), abs=1e-5)
    assert loss_of(place, "keys") == pytest.approx(loss_of(place, "masks"), abs=1e-5)


def test_a_family_that_declines_is_named(place, tiny, monkeypatch):
    write_files(place, tiny, "gemma2")
    monkeypatch.setattr(attention_choice, "find_kernel", lambda device, dtype: (reference_varlen, ""))
    line = "eager (padded): gemma2 caps its attention scores"
    assert plan_of("run.yaml") == line
    assert f"attention: {line}\n" in run("train", "run.yaml")
