"""A run whose answers are made of several models' logits, through every command that asks the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.axes.registry import REGISTRY
from holdfast.cli.app import app
from holdfast.models.loading import locate_model

QUESTIONS = [{"question": f"What is {a} + 2?", "choices": [str(a + 2), str(a + 3)], "answer": 0} for a in range(6)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(REGISTRY["inference"], "ensemble", "methods.inference.ensemble:Ensemble")
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    (tmp_path / "text.txt").write_text("The sum of three and four is seven.\n\n" * 12, encoding="utf-8")
    return tmp_path


def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Any:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, result.output
    return result


def train(place: Path, out: str, inference: Any = None, **more: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "model": "lab-small", "output": out, "data": {"train": "lab:sums", "limit": 40},
        "train": {"max_steps": 3, "batch_tokens": 512, "precision": "fp32"}, "optimizer": {"learning_rate": 1e-2},
        "evaluate": {"keep": ["lab:strings", "choices.jsonl", "text.txt"], "items": 6, "live_items": 0,
                     "max_tokens": 24},
        **({"inference": inference} if inference else {}), **more,
    }  # fmt: skip
    (place / f"{out}.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    run("train", f"{out}.yaml")
    return json.loads((place / out / "report.json").read_text(encoding="utf-8"))


def figures(report: dict[str, Any]) -> dict[str, Any]:
    return {task["name"]: task["tuned"] for task in report["tasks"]}


def test_an_ensemble_is_what_is_measured_talked_to_evaluated_and_said(place: Path) -> None:
    plain, one = train(place, "plain"), train(place, "one", {"name": "ensemble", "weight": 1.0})
    assert figures(one) == figures(plain) != {task["name"]: task["base"] for task in plain["tasks"]}
    assert {task["kind"] for task in plain["tasks"]} >= {"generate", "choice", "perplexity"}
    zero = train(place, "zero", {"name": "ensemble", "weight": 0.0})
    for task in zero["tasks"]:
        assert (task["tuned"], task["delta"]) == (task["base"], 0), task["name"]
        assert not task["won"]
        assert not task["lost"]

    assert not (place / "plain" / "model" / "inference.json").exists()
    assert "decoding" not in plain["model"]
    assert "plain transformers knows nothing of it" in zero["model"]["decoding"]
    assert "not of these weights alone" in (place / "zero" / "README.md").read_text(encoding="utf-8")

    asked = {name: run("chat", name, "--once", "--max-tokens", "12", stdin="What is 3 + 4?\n") for name in
             ("lab-small", "zero", "plain", "one")}  # fmt: skip
    assert asked["zero"].stdout == asked["lab-small"].stdout
    assert asked["one"].stdout == asked["plain"].stdout
    assert "ensemble (weight 0.0)" in asked["zero"].stderr

    run("eval", "plain", "lab:sums", "choices.jsonl", "--inference", "{name: ensemble, weight: 0.0}", "--items", "6",
        "--max-tokens", "24", "--out", "chosen")  # fmt: skip
    chosen = json.loads((place / "chosen" / "report.json").read_text(encoding="utf-8"))
    assert chosen["model"]["name"] == "plain"
    expected = {t["name"]: (t["tuned"], t["base"]) for t in plain["tasks"] if t["name"] in ("sums", "choices")}
    for task in chosen["tasks"]:  # sums of the same answers in another order
        assert (task["base"], task["tuned"]) == pytest.approx(expected[task["name"]])
    assert expected.keys() == {task["name"] for task in chosen["tasks"]}
    talked = run("chat", "plain", "--once", "--max-tokens", "12", "--inference", "{name: dial, point: 0}",
                 stdin="What is 3 + 4?\n")  # fmt: skip
    assert talked.stdout == asked["lab-small"].stdout
    for wrong, says in (("ensembl", "did you mean ensemble?"), ("{name: ensemble, weight: 2}", "weight")):
        assert says in run("eval", "plain", "lab:sums", "--inference", wrong, code=2).output
    assert "is neither a run nor an adapter" in run("chat", "lab-small", "--inference", "ensemble", code=2).output

    run("dial", "plain", "--points", "0,1")
    curve = json.loads((place / "plain" / "dial" / "compare.json").read_text(encoding="utf-8"))
    at = {r["method"]: {name: task["tuned"] for name, task in r["tasks"].items()} for r in curve["runs"]}
    assert at["dial 0"] == pytest.approx({task["name"]: task["base"] for task in plain["tasks"]})
    assert at["dial 1"] == pytest.approx(figures(plain))
    assert "Gain/loss plane" in (place / "plain" / "dial" / "report.html").read_text(encoding="utf-8")
    assert "is not between 0" in run("dial", "plain", "--points", "0,2", code=2).output
    assert "is no finished run" in run("dial", "nowhere", code=2).output

    run("eval", "zero", "text.txt", "choices.jsonl", "--against", "lab-small", "--items", "6", "--out", "again")
    again = json.loads((place / "again" / "report.json").read_text(encoding="utf-8"))
    assert [task["delta"] for task in again["tasks"]] == [0, 0]

    assert "plain transformers knows nothing of it" in run("export", "zero", "folder").output
    assert (place / "folder" / "inference.json").read_bytes() == (
        place / "zero" / "model" / "inference.json"
    ).read_bytes()
    assert "not of these weights alone" in (place / "folder" / "README.md").read_text(encoding="utf-8")
    assert "not of its weights alone" in run("export", "zero", "half", "--dial", "0.5", code=2).output
    assert not (place / "half").exists()


def test_what_cannot_be_followed_is_refused_by_check_and_train(place: Path, tiny_dir: Any) -> None:
    """A model with another tokenizer, one that is not there, a method that overrides nothing."""
    (place / "mine.py").write_text(
        "from holdfast.axes.inference import Inference\n"
        "class Other(Inference):\n    '''Another model. [x]'''\n    path: str\n"
        "    def extra_models(self):\n        return {'small': self.path}\n"
        "    def logits(self, step):\n        return step['small']\n"
        "class Nothing(Inference):\n    '''Nothing. [x]'''\n",
        encoding="utf-8",
    )
    data = {"model": "lab-small", "data": {"train": "lab:sums", "limit": 20}, "train": {"max_steps": 1}}
    cases = {
        "has another tokenizer": {"name": "mine:Other", "path": str(tiny_dir("llama"))},
        "nowhere": {"name": "mine:Other", "path": "/nowhere/model"},
        "changes nothing": {"name": "mine:Nothing"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        for says, inference in cases.items():
            (place / "r.yaml").write_text(yaml.safe_dump({**data, "inference": inference, "output": "no"}))
            for verb in ("check", "train")[: 1 + (says == "nowhere")]:
                assert says in run(verb, "r.yaml", code=2).output
            assert not (place / "no").exists()


def test_judges_and_curators_say_that_they_use_the_weights_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers through an ensemble, as judge and as what a curator reads log-probabilities of."""
    shutil.copytree(locate_model("lab-small"), place / "several")
    setup = {"inference": {"name": "ensemble", "weight": 0.5}, "changes": ["logits"]}
    (place / "several" / "inference.json").write_text(json.dumps(setup), encoding="utf-8")
    (place / "curators_here.py").write_text(
        "from typing import ClassVar\n"
        "from holdfast.axes.curator import Curator\n"
        "class Likely(Curator):\n    '''The rows that another model finds likely. [x]'''\n"
        "    effect: ClassVar = 'select'\n    paper = 'none'\n"
        "    def curate(self, rows, context):\n"
        "        logps = context.compute_logps([row.messages for row in rows], 'several')\n"
        "        return context.keep(rows, [one.mean() > -99 for one in logps], 'unlikely')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(place))
    recipe = {
        "model": "lab-small", "output": "out", "data": {"train": "lab:sums", "limit": 12}, "train": {"max_steps": 1},
        "curate": ["curators_here:Likely"], "judge": {"name": "llm", "model": "several"},
        "evaluate": {"keep": ["text.txt"], "items": 2, "live_items": 0, "max_tokens": 4},
    }  # fmt: skip
    (place / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    said = run("train", "r.yaml").stderr
    for user in ("judge", "curator curators_here:Likely"):
        line = f"{user}: of {place / 'several'} the weights alone are used: answers are made by ensemble (weight 0.5)"
        assert said.count(line) == 1, said
