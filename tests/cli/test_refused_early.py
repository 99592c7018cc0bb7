"""What a run cannot do is said by `check` and by `train` before anything is written, each in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from transformers import AutoTokenizer
from typer.testing import CliRunner

from holdfast.cli.app import app

RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 16}
train: {max_steps: 1, batch_tokens: 256, precision: fp32}
evaluate: {keep: [lab:strings], items: 4, live_items: 0, every: 0, max_tokens: 16}
output: out
"""
HERE = "http://127.0.0.1:9/v1"


pytestmark = pytest.mark.usefixtures("place")


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def said(*arguments: str) -> str:
    return run(*arguments, code=2).stderr.splitlines()[-1].removeprefix("holdfast: ")


WRONG = {
    "a judge whose module is missing": (
        ["judge={name: python, function: 'nowhere:judge'}"], "judge nowhere:judge: "),
    "a judge whose function is missing": (
        ["judge={name: python, function: 'mine.py:jugde'}"], "judge "),
    "a server that is not there": (
        ["method=s3ft", f"sampling.engine={HERE}"], f"{HERE} cannot be reached: [Errno 111] Connection refused"),
    "an engine that is not installed": (
        ["method=s3ft", "sampling.engine=vllm"], "sampling.engine: vllm is not installed; pip install"),
    "a draft that another engine would not read": (
        ["sampling.engine=transformers", "sampling.draft=lab"], "run.yaml: sampling: draft: only the native engine"),
    "a draft that is not there": (
        ["sampling.draft=nowhere/at-all"], "nowhere/at-all"),
    "a judging model that is not there": (
        [f"judge={{name: llm, engine: '{HERE}'}}"], f"{HERE} cannot be reached"),
    "modules that are not there": (
        ["tuner={name: lora, target_modules: [wq]}"], "tuner.target_modules: wq not found in LlamaForCausalLM; "),
    "an expression that matches nothing": (
        ["tuner={name: lora, target_modules: '.*\\.wq'}"], "tuner.target_modules: .*\\.wq matches no module of Llama"),
    "no expression": (
        ["tuner={name: lora, target_modules: '*_proj('}"], "tuner.target_modules: *_proj( is not a regular expression"),
    "modules that have no weights to adapt": (
        ["tuner={name: lora, target_modules: norm}"], "tuner: PEFT cannot adapt this model so: Target module Llama"),
    "experts that are not there": (
        ["tuner={name: lora, target_parameters: [mlp.experts.down_proj]}"], "tuner.target_parameters: mlp.experts"),
    "modules to save that are not there": (
        ["tuner={name: lora, modules_to_save: [score]}"], "tuner.modules_to_save: score not found in LlamaForCausalLM"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_check_and_train_refuse_alike_and_write_nothing(name: str, place: Path) -> None:
    settings, text = WRONG[name]
    (place / "mine.py").write_text("def judge(prompt, response, reference):\n    return True\n")
    for verb in ("check", "train"):
        assert said(verb, "run.yaml", *settings).startswith(text)
    assert not (place / "out").exists()


def odd_tokenizer(folder: Path, tiny_dir) -> None:
    """A model whose tokenizer has a token, used by its template or for padding only, that it has no embedding for."""
    shutil.copytree(tiny_dir("gpt2", n_positions=512), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"], "pad_token": "<|padding|>"})
    tokenizer.save_pretrained(folder)


def test_tokens_without_an_embedding_are_refused_and_may_pad(place: Path, tiny_dir) -> None:
    odd_tokenizer(place / "odd", tiny_dir)
    rows = [{"prompt": f"Add {i} and 2.", "completion": f"The answer is {i + 2}."} for i in range(8)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = ["model=odd", "data={train: rows.jsonl, test: 0.25}", "judge=number", "evaluate.keep=[]"]
    run("check", "run.yaml", *settings)
    run("train", "run.yaml", *settings)
    rows[3]["completion"] = "It is <|extra|>."
    rows[3]["prompt"] = "<|extra|> " * 2
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for verb in ("check", "train"):
        text = said(verb, "run.yaml", *settings, "output=other")
        assert text.startswith("token 321 (<|extra|>) is unknown to the model, which has 320 embeddings")
    assert not (place / "other").exists()
    assert said("eval", "odd", "rows.jsonl", "--judge", "number").startswith("token 321")


def test_a_draft_with_other_tokens(place: Path, tiny_dir) -> None:
    other = f"sampling.draft={tiny_dir()}"
    for verb in ("check", "train"):
        assert " has another tokenizer than lab-small, so it cannot propose" in said(verb, "run.yaml", other)
    for verb in ("eval", "chat", "serve"):
        told = said(verb, "lab-small", "--draft", str(tiny_dir()))
        assert told.startswith("--draft: ")
        assert " has another tokenizer than lab-small, so it cannot propose" in told


@pytest.mark.parametrize("given", ["q_proj", "'q_proj, v_proj'", "[q_proj]", "'.*\\.q_proj'"])
def test_names_of_modules_as_people_write_them(given: str) -> None:
    assert run("check", "run.yaml", f"tuner={{name: lora, target_modules: {given}}}")


def test_stages_are_looked_at_too(place: Path) -> None:
    stages = "stages=[sft, {name: two, tuner: {name: lora, target_modules: [wq]}}]"
    for verb in ("check", "train"):
        assert said(verb, "run.yaml", stages).startswith("tuner.target_modules: wq not found")
    assert not (place / "out").exists()


def test_a_server_may_go_when_the_rows_are_there(place: Path) -> None:
    """Rows curated before are trained on without the engine that sampled them."""
    run("curate", "run.yaml", "method=sft")
    from holdfast.pipeline.run_dir import is_curated
    from holdfast.recipe.loader import read_recipe

    assert is_curated(read_recipe("run.yaml", ["method=sft"]).recipe)
    assert not is_curated(read_recipe("run.yaml", ["method=s3ft"]).recipe)
    assert not is_curated(read_recipe("run.yaml", ["output=other"]).recipe)


def test_an_output_that_cannot_be_had(place: Path) -> None:
    (place / "taken").mkdir()
    (place / "taken" / "note.txt").write_text("mine\n")
    for output, line in (
        ("taken", "taken: is not empty and not a run of holdfast; set another output"),
        ("run.yaml", "run.yaml: is a file, and a run needs a directory; set another output, or move the file away"),
        ("run.yaml/out", "run.yaml/out: cannot be written ("),
    ):
        for verb in ("check", "train"):
            assert said(verb, "run.yaml", f"output={output}").startswith(line)


def test_models_that_are_not_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "runs" / "mine").mkdir(parents=True)
    assert said("chat", "runs/mina") == (
        "runs/mina: no such folder; give that of a model, or a name on the hub (OWNER/NAME); did you mean runs/mine?"
    )
    for arguments in (["chat", "runs/nothing"], ["eval", "runs/nothing"], ["train", "run.yaml", "model=./none"]):
        assert ": no such folder" in said(*arguments)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert said("check", "run.yaml", "model=lab-smal").endswith("; did you mean lab-small?")
    line = said("check", "run.yaml", "model=Nobody/Nothing-7B")
    assert line.startswith("Nobody/Nothing-7B: no such folder, and not in the cache ")
    assert line.endswith("; the hub is not asked, because HF_HUB_OFFLINE is set")
    (place / "out").mkdir()
    (place / "out" / "resolved.yaml").write_text("model: lab\n")
    assert "this run has no model yet" in said("eval", "out")


def test_a_broken_file_of_weights_is_named(place: Path) -> None:
    from holdfast.models.loading import LAB_DIRECTORY

    shutil.copytree(LAB_DIRECTORY / "lab-small", place / "m")
    weights = place / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    line = said("check", "run.yaml", "model=m")
    assert line.startswith(f"{weights}: broken weights (")
    assert line.endswith("); it may have been cut off: copy or download it again")


def test_check_shows_the_rejected_answer_too() -> None:
    text = run("check", "run.yaml", "method=dpo").stdout
    shown = text[text.index("What is trained") : text.index("\nPlan\n")]
    assert (shown.count("\nchosen:\n"), shown.count("\nrejected:\n")) == (3, 3)
    assert "chosen:" not in run("check", "run.yaml").stdout
