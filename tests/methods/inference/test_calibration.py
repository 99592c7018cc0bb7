"""Calibration of absent labels: golden numbers, limits, and the gamma that is found from a run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from holdfast.axes.inference import LogitStep
from holdfast.cli.app import app
from holdfast.data.row_labels import list_labels
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.inference.calibration import Calibration
from holdfast.methods.inference.label_scores import LabelScores
from holdfast.methods.inference.pseudo_labels import cross_validate

BREAKS = (
    -1.571726, -0.338922, 0.534467, 0.857565, 0.949084, 0.950695, 1.13506, 1.163951, 1.31749, 1.342962, 2.208801,
    3.814838,
)  # fmt: skip


def golden() -> LabelScores:
    """12 items, 6 classes, of which the first three were trained on and score 1 more."""
    gold = np.arange(12) % 6
    z = np.array([
        [np.sin(1.3 * (i + 1) + 0.7 * (c + 1)) + 1.2 * (c == gold[i]) + (c < 3) for c in range(6)] for i in range(12)
    ])  # fmt: skip
    return LabelScores(z, gold, np.arange(6) >= 3)


def test_golden_numbers() -> None:
    """Computed apart from this code, by the definitions."""
    scores = golden()
    assert scores.compute_accuracies() == pytest.approx((2 / 3, 1.0, 1 / 3))
    assert scores.compute_accuracies_apart() == (1.0, 1.0)
    curve = scores.compute_curve()
    assert curve.gammas[1:-1] == pytest.approx([(a + b) / 2 for a, b in itertools.pairwise(BREAKS)], abs=1e-6)
    assert curve.gammas[[0, -1]] == pytest.approx([BREAKS[0] - 1, BREAKS[-1] + 1], abs=1e-6)
    assert curve.compute_area() == pytest.approx(2 / 3, abs=1e-9)
    assert scores.average_gap() == pytest.approx(0.38057033, abs=1e-8)
    by_hand = [scores.compute_accuracies(float(gamma)) for gamma in curve.gammas]
    assert np.allclose(by_hand, np.stack([curve.overall, curve.present, curve.absent], 1), atol=1e-12)


def test_limits_and_invariances() -> None:
    scores = golden()
    assert scores.compute_accuracies(1e9) == pytest.approx((0.5, 0.0, scores.compute_accuracies_apart()[1]))
    assert scores.compute_accuracies(-1e9) == pytest.approx((0.5, scores.compute_accuracies_apart()[0], 0.0))
    for gamma in (-2.0, 0.0, 1.1):
        biased = LabelScores(scores.z + np.where(scores.is_absent, gamma, 0.0), scores.gold, scores.is_absent)
        assert biased.compute_accuracies_apart() == scores.compute_accuracies_apart()
        assert biased.compute_curve().compute_area() == pytest.approx(scores.compute_curve().compute_area())
        assert biased.average_gap() == pytest.approx(scores.average_gap() - gamma)  # a planted offset is found
    moved = LabelScores(scores.z + np.arange(12.0)[:, None], scores.gold, scores.is_absent)
    assert moved.compute_accuracies(0.4) == scores.compute_accuracies(0.4)
    assert moved.average_gap() == pytest.approx(scores.average_gap())


def test_gamma_is_the_best_that_leaves_the_absent_as_they_were() -> None:
    curve = golden().compute_curve()
    points = list(zip(curve.gammas, curve.overall, curve.absent, strict=True))
    for floor in (0.0, 0.5, 1.0):
        best = max((all_right, -abs(gamma)) for gamma, all_right, absent in points if absent >= floor)
        assert abs(curve.pick_gamma(floor)) == -best[1]  # type: ignore[arg-type]
    assert curve.pick_gamma(1.1) is None


class PlantedBench:
    """Models that know every label, and put `offset` on those they were trained on; `copies` counts the trainings."""

    is_choice = True

    def __init__(self, offset: float, floor: bool = True) -> None:
        labels = "abcdefgh"
        self.rows = [Row([{"role": "user", "content": f"{i}"}], reference=labels[i % 6]) for i in range(60)]
        self.test = [Row([{"role": "user", "content": f"t{i}"}], reference=labels[i % 8]) for i in range(40)]
        self.models: dict[str, set[str]] = {"tuned": set(labels[:6]), "base": set()}
        self.offset, self.floor = offset, floor

    def score_labels(self, model: str, rows: Sequence[Row], labels: Sequence[str], form: str) -> np.ndarray:
        rng = np.random.default_rng(len(rows))
        right = np.array([[2.0 * (row.gold == label) for label in labels] for row in rows])
        if model not in ("tuned", "base") and not self.floor:
            right *= 0  # what was trained on half forgets everything
        noise = rng.normal(0, 0.3, right.shape)
        return right + noise + self.offset * np.array([label in self.models[model] for label in labels])

    def require_first_tokens(self, present: Sequence[str], absent: Sequence[str]) -> None:
        pass

    def train_copy(self, rows: Sequence[Row]) -> str:
        name = f"copy {len(self.models)}"
        self.models[name] = set(list_labels(rows))
        return name


def test_gamma_is_found_from_the_rows_of_a_run() -> None:
    bench = PlantedBench(5.0)
    found: Any = Calibration(gamma="alg").settle_knobs(bench)
    assert (found.absent, found.present, found.form) == (("g", "h"), tuple("abcdef"), "choice")
    assert found.gamma == pytest.approx(5.0, abs=0.3)
    assert found.unsettled_knobs() == []
    pcv: Any = Calibration(gamma="pcv").settle_knobs(bench)
    assert 3.0 < pcv.gamma < 7.0
    assert [len(labels) for name, labels in bench.models.items() if name.startswith("copy")] == [3, 3, 3]
    scores = pcv.score_labels(bench, bench.test, "tuned")
    assert scores.compute_accuracies()[2] == 0.0
    assert scores.compute_accuracies(pcv.gamma)[2] >= 0.8 * scores.compute_accuracies_apart()[1]
    section: Any = pcv.build_section(bench)
    assert "0.0 % after it" in section.sentence
    assert len(section.table.rows) == 3
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in section.figures[0].series[0].points)
    assert cross_validate(PlantedBench(5.0, floor=False), tuple("abcdef"), "choice", 2) == 0.0  # no split qualifies
    with pytest.raises(UserError, match="half of the trained labels, and there is one"):
        cross_validate(bench, ("a",), "choice", 1)


def test_the_bias_is_on_choices_or_on_first_tokens() -> None:
    ids = {"yes": [3, 4], "no": [5], "maybe": [6, 7], "yellow": [3, 9]}
    knobs: dict[str, Any] = {"gamma": 2.0, "absent": ("no", "maybe", "yellow"), "present": ("yes",)}
    by_choice, by_token = (Calibration(form=form, **knobs) for form in ("choice", "first_token"))
    assert [by_choice.choice_bias(x) for x in ("no", "yes")] == [2.0, 0.0]
    assert by_token.choice_bias("no") == 0.0
    step = LogitStep({"tuned": torch.zeros(2, 10)}, torch.tensor([0, 1]), answer_ids=lambda text: ids[text])
    assert by_token.logits(step).tolist() == [[0.0] * 5 + [2.0, 2.0] + [0.0] * 3, [0.0] * 10]
    assert by_choice.logits(LogitStep({"tuned": torch.zeros(2, 10)}, torch.tensor([0, 1]))).abs().sum() == 0


def test_what_has_no_absent_labels_is_refused_before_training() -> None:
    rows = [Row([{"role": "user", "content": "q"}, {"role": "assistant", "content": label}]) for label in "ab"]
    with pytest.raises(UserError, match="none is absent"):
        Calibration().check_rows(rows, rows)
    many = [Row([{"role": "user", "content": "q"}, {"role": "assistant", "content": str(i)}]) for i in range(300)]
    with pytest.raises(UserError, match="302 different answers"):
        Calibration().check_rows(rows, many)
    Calibration(absent="c").check_rows(rows, many)
    assert Calibration(absent="c").absent == ("c",)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Colours of people as questions: two of the answers are in the training rows, the test asks for four."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    colors = ("red", "blue", "green", "black")
    for name, number, some in (("train", 24, colors[:2]), ("test", 8, colors)):
        lines = [
            {"question": f"Color {name} {i}?", **({"choices": list(colors)} if name == "choices" else {}),
             "answer": some[i % len(some)]} for i in range(number)
        ]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Any:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, result.output
    return result


def test_a_run_finds_gamma_keeps_it_and_shows_the_curve(place: Path) -> None:
    recipe: dict[str, Any] = {
        "model": "lab-small", "output": "out", "judge": "exact", "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "inference": {"name": "calibration", "gamma": "pcv", "splits": 1}, "optimizer": {"learning_rate": 3e-3},
        "train": {"max_steps": 8, "batch_tokens": 256},
        "evaluate": {"keep": ["lab:strings"], "items": 8, "live_items": 0, "max_tokens": 6},
    }  # fmt: skip
    (place / "r.yaml").write_text(yaml.safe_dump(recipe))
    run("train", "r.yaml")
    setup = json.loads((place / "out" / "model" / "inference.json").read_text())["inference"]
    assert (setup["present"], setup["absent"]) == (["red", "blue"], ["green", "black"])
    assert setup["form"] == "first_token"
    assert isinstance(setup["gamma"], float)
    report = json.loads((place / "out" / "report.json").read_text())
    (section,) = [s for s in report["analyses"] if s["name"] == "calibration"]
    assert section["figures"][0]["x"] == "trained labels right, %"
    assert "Labels that training left out" in (place / "out" / "report.html").read_text()
    assert "calibration" in run("chat", "out", "--once", "--max-tokens", "3", stdin="Color?\n").stderr
    alg = "{name: calibration, gamma: 50.0}"
    run("eval", "out", "test.jsonl", "--judge", "exact", "--inference", alg, "--max-tokens", "6", "--out", "again")
    again = json.loads((place / "again" / "report.json").read_text())
    assert all(flip["tuned"].split()[:1] in (["green"], ["black"]) for flip in again["tasks"][0]["flips"])
    assert "found from the rows of a run" in run("chat", "lab-small", "--inference", "calibration", code=2).output
    recipe |= {"output": "no", "data": {"train": "train.jsonl", "test": "train.jsonl"}}
    (place / "r.yaml").write_text(yaml.safe_dump(recipe))
    for verb in ("check", "train"):
        assert "none is absent" in run(verb, "r.yaml", code=2).output
    assert not (place / "no").exists()
