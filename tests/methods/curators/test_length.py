"""DavIR with a real base and a reference that it trains: its figures, and how little they go by length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from holdfast import curate
from holdfast.data.chat.encoder import Chat
from holdfast.models.loading import load_model
from holdfast.models.policy import Policy
from holdfast.models.row_features import label_logps
from holdfast.skills.rows import lab_rows

ROWS, NOISY = 80, 24
"""Rows, and the first of them whose answer belongs to another question."""


def write_rows(path: Path) -> None:
    """Stories with answers of 17 to 44 tokens."""
    stories = lab_rows("lab:story", "train", ROWS)
    answers = [str(row.answer) for row in stories]
    answers[:NOISY] = [answers[number + 7] for number in range(NOISY)]
    rows = zip((row.prompt[-1]["content"] for row in stories), answers, strict=True)
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))


def correlate_ranks(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation."""
    return float(np.corrcoef(*(np.argsort(np.argsort(one)) for one in (a, b)))[0, 1])


def test_davir_goes_less_by_length_than_the_difference_of_the_losses(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "train.jsonl")
    out = curate({
        "model": "lab-small", "device": "cpu", "data": {"train": str(tmp_path / "train.jsonl"), "test": 0},
        "curate": {"name": "davir", "share": 1.0, "epochs": 2},
        "optimizer": {"learning_rate": 1e-3},
        "train": {"max_steps": 1, "batch_tokens": 1024, "precision": "fp32"},
        "evaluate": {"target": "none", "keep": ["none"]}, "output": str(tmp_path / "out"),
    })  # fmt: skip
    chosen = [json.loads(line) for line in out.read_text().splitlines()]
    scores = np.array([row["meta"]["trace"][-1]["score"] for row in chosen])
    (reference,) = (tmp_path / "out/cache/references").glob("*/model")
    losses = []
    for name in ("lab-small", str(reference)):
        loaded = load_model(name, device="cpu")
        chat = Chat(loaded.tokenizer)
        encodings = chat.encode_many([row["messages"] for row in chosen])
        losses.append([-one for one in label_logps(Policy(loaded.model), encodings, chat.pad_id)])
    lengths = np.array([len(one) for one in losses[0]])
    base, tuned = (np.array([one.sum() for one in own]) for own in losses)
    assert scores == pytest.approx(1 - tuned / base, abs=2e-3)
    assert abs(correlate_ranks(scores, lengths)) < abs(correlate_ranks(base - tuned, lengths)) - 0.2
    assert (np.argsort(-scores)[: int(0.3 * ROWS)] < NOISY).mean() < 0.1  # nothing can be learned of the noise
