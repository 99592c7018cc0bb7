"""An adapter folded in gives the model that was trained, tied embeddings included; what does not is not written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.errors import RunError, UserError
from holdfast.methods.inference.dial import Dial
from holdfast.methods.tuners.lora import LoRA
from holdfast.models.loading import load_model
from holdfast.models.merging import compute_distance, fold_adapter, merged_copy, probe_logps
from holdfast.pipeline.export import export_model

TIED = {
    "all": {"target_modules": ("q_proj", "embed_tokens", "lm_head")},
    "embeddings": {"target_modules": ("embed_tokens",)},
    "head": {"target_modules": ("lm_head",)},
    "saved": {"target_modules": ("q_proj",), "modules_to_save": ("embed_tokens", "lm_head")},
    "saved head": {"target_modules": ("q_proj",), "modules_to_save": ("lm_head",)},
    "dora": {"target_modules": ("q_proj", "lm_head"), "dora": True},
}


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """The model after every weight that trains took a step."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TIED)
def test_what_is_tied_is_parted_before_an_adapter_is_folded_in(tiny, tmp_path, name):
    base, tokenizer = tiny("llama", tie_word_embeddings=True)
    tuned = moved(LoRA(r=2, **TIED[name]).apply(tiny("llama", tie_word_embeddings=True)[0], seed=0))
    wanted, start = probe_logps(tuned), probe_logps(base)
    assert compute_distance(start, wanted).most > 0.1
    plain = merged_copy(tuned, LoRA())
    assert compute_distance(wanted, probe_logps(plain)).most < 1e-4
    plain.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    assert compute_distance(wanted, probe_logps(load_model(tmp_path / "plain").model)).most < 1e-4
    ends = [probe_logps(Dial(point=point).weights(base, plain)) for point in (0, 1)]
    assert compute_distance(start, ends[0]).most == 0
    assert compute_distance(wanted, ends[1]).most < 1e-4
    assert compute_distance(wanted, probe_logps(tuned)).most == 0, "the tuned model is left as it is"


def test_a_tied_model_stays_tied_where_nothing_parts_it(tiny):
    model = fold_adapter(moved(LoRA(r=2).apply(tiny("llama", tie_word_embeddings=True)[0], seed=0)), LoRA())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings


def test_an_adapter_that_does_not_fold_in_is_refused(tiny):
    model = moved(LoRA(r=2).apply(tiny("llama")[0], seed=0))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(RunError, match="cannot be folded into the weights"):
        fold_adapter(model, LoRA())


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def tied(tiny_dir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a recipe of two stages, the first of which adapts the tied embeddings of `base`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "base").symlink_to(tiny_dir("llama", tie_word_embeddings=True))
    rows = [{"prompt": f"Add {i} and 2.", "completion": f"The answer is {i + 2}."} for i in range(12)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stage = {
        "method": "sft", "tuner": {"name": "lora", "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        "data": {"train": "rows.jsonl", "test": 0}, "optimizer": {"learning_rate": 0.05},
        "train": {"max_steps": 3, "epochs": 3, "batch_tokens": 128, "max_length": 64},
    }  # fmt: skip
    second = stage | {"name": "second", "tuner": "full"}
    recipe = {
        "model": "base", "data": stage["data"], "evaluate": {"target": "none", "keep": [], "every": 0},
        "stages": [stage | {"name": "first"}, second], "output": "out",
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exports_and_stages_go_on_from_the_model_that_was_trained(tied: Path) -> None:
    run("train", "run.yaml")
    left = Path("out/stages/1-first")
    trained = probe_logps(load_model(left).model)
    assert compute_distance(probe_logps(load_model("base").model), trained).most > 0.1
    assert compute_distance(trained, probe_logps(load_model(left / "merged").model)).most < 1e-4, (
        "what the next stage starts from"
    )
    run("export", str(left), "merged", "--merge")
    assert compute_distance(trained, probe_logps(load_model("merged").model)).most < 1e-4
    run("export", str(left), "dialled", "--dial", "1")
    assert compute_distance(trained, probe_logps(load_model("dialled").model)).most < 1e-4
    Path(f".again.{2**22 + 1}.partial").mkdir()  # as an export leaves it that was killed, so of no process there is
    run("export", str(left), "again", "--merge")
    assert sorted(p.name for p in Path().iterdir() if "again" in p.name) == ["again"]


def test_the_dial_wants_the_weights_that_the_run_started_from(tied: Path, tiny_dir) -> None:
    run("train", "run.yaml")
    Path("base").unlink()
    Path("base").symlink_to(tiny_dir("llama", seed=7, tie_word_embeddings=True))
    with pytest.raises(UserError, match="not those the run started from"):
        export_model("out", "half", dial=0.5)
    assert not Path("half").exists()
