"""Virtual tokens: trained, scored, sampled, saved and loaded as PEFT does it, and off for the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.data.batching.batches import collate_sequences
from holdfast.models.loading import load_model
from holdfast.models.policy import Policy


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def run(*arguments: str, given: str = "", code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments), input=given)
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def tuned(tiny: Any, kind: str) -> Any:
    from own_tuners import Prompt  # type: ignore[import-not-found]

    model = Prompt(tokens=3).apply(tiny(kind)[0], seed=0).eval()
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.normal_(generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_what_is_scored_is_what_peft_computes_and_the_reference_is_the_base(
    tiny: Any, make_rows: Any, kind: str
) -> None:
    model, rows = tuned(tiny, kind), make_rows(4)
    batch = collate_sequences(rows, "padded", 0)
    assert batch is not None
    policy = Policy(model, base=model.disable_adapter)
    assert not policy.isolates_packed_rows
    with torch.no_grad():
        wanted = model(input_ids=batch.input_ids).logits[:, 3:].flatten(0, 1)[batch.label_positions]  # [N, V]
        logps = -F.cross_entropy(wanted.float(), batch.labels, reduction="none")
        torch.testing.assert_close(policy.token_logps(batch), logps, atol=1e-4, rtol=1e-4)
        base = Policy(tiny(kind)[0]).token_logps(batch)
    torch.testing.assert_close(policy.reference_logps(batch), base, atol=1e-4, rtol=1e-4)
    assert float((base - logps).abs().max()) > 0.01
    policy.token_logps(batch).sum().backward()
    assert float(model.prompt_encoder["default"].embedding.weight.grad.abs().sum()) > 0


def test_a_run_trains_measures_saves_and_is_loaded_again(
    tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    Path("base").symlink_to(tiny_dir("llama"))
    rows = [{"prompt": f"Add {i} and 2.", "completion": f"The answer is {i + 2}."} for i in range(16)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "model": "base", "data": {"train": "rows.jsonl", "test": 0.25}, "tuner": "own_tuners:Prompt", "judge": "exact",
        "optimizer": {"learning_rate": 0.5}, "sampling": {"max_tokens": 6}, "output": "out",
        "train": {"max_steps": 4, "epochs": 4, "batch_tokens": 128, "max_length": 64},
        "evaluate": {"target": "test", "keep": [], "live_items": 2, "every": 0.5, "max_tokens": 6},
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run("check", "run.yaml")
    run("train", "run.yaml")
    loaded = load_model("out")
    assert loaded.model.get_nb_trainable_parameters()[0] in (0, 4 * 32)  # type: ignore[operator]
    elsewhere: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "out/model").eval()
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, elsewhere(input_ids=ids).logits)
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Add 7 and 2."}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = elsewhere.generate(**prompt, max_new_tokens=6, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    text = loaded.tokenizer.decode(answer, skip_special_tokens=True)
    assert text.strip() in run("chat", "out", "--once", "--max-tokens", "6", given="Add 7 and 2.\n")
    report = json.loads(Path("out/report.json").read_text())
    run("eval", "out", "--against", "base", "--out", "again")
    again = json.loads(Path("again/report.json").read_text())
    assert {t["name"]: t["tuned"] for t in again["tasks"]} == {t["name"]: t["tuned"] for t in report["tasks"]}
    assert "cannot be folded into the weights" in run("export", "out", "no", "--merge", code=2)
    assert "library_name: peft" in Path("out/README.md").read_text()
