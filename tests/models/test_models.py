"""Models by name, saved and loaded again: the same log-probabilities; one clear line for whatever is not a model."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from holdfast.axes.tuner import Tuner
from holdfast.errors import UserError
from holdfast.models import loading
from holdfast.models.loading import fingerprint_of, load_model
from holdfast.models.saving import save_model

KINDS = ("llama", "qwen2", "gpt2", "gemma2")
IDS = torch.tensor([[5, 40, 7, 250, 9, 1, 2]])

PROMPT = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)


def logps(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.log_softmax(-1)


def adapted(model) -> PeftModel:
    config = LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_the_same(tiny, tmp_path, kind):
    model, tokenizer = tiny(kind)
    path = save_model(model, tokenizer, tmp_path / "model", stop_ids=[1])
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    loaded = load_model(path)
    assert loaded.path == path
    assert not loaded.lab
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    plain = AutoModelForCausalLM.from_pretrained(path)
    for other in (loaded.model, plain):
        assert torch.equal(logps(other), logps(model))
        assert sorted(other.generation_config.eos_token_id) == [1, tokenizer.eos_token_id]
        assert other.generation_config.pad_token_id == tokenizer.pad_token_id
    messages = [{"role": "user", "content": "héllo"}]
    for other in (loaded.tokenizer, AutoTokenizer.from_pretrained(path)):
        assert other.apply_chat_template(messages, tokenize=False) == tokenizer.apply_chat_template(
            messages, tokenize=False
        )


def test_plain_generation_stops_at_the_stop_ids(tiny, tmp_path):
    model, tokenizer = tiny("llama")
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    answer = model.generate(IDS, attention_mask=torch.ones_like(IDS), **settings)[0, IDS.shape[1] :].tolist()
    assert len(answer) == 5
    end = answer[2]
    path = save_model(model, tokenizer, tmp_path / "model", stop_ids=[end])
    plain = AutoModelForCausalLM.from_pretrained(path)
    shorter = plain.generate(IDS, attention_mask=torch.ones_like(IDS), **settings)[0, IDS.shape[1] :].tolist()
    assert shorter == answer[: answer.index(end) + 1]
    assert len(shorter) < 5


def test_saving_replaces_and_leftovers_of_a_killed_save_do_no_harm(tiny, tmp_path):
    model, tokenizer = tiny("llama")
    other, _ = tiny("llama", seed=1)
    save_model(model, tokenizer, tmp_path / "model")
    killed = tmp_path / f".model.{2**22 + 1}.partial"  # of a process that there cannot be any more
    killed.mkdir()
    (killed / "model.safetensors").write_text("half")
    save_model(other, tokenizer, tmp_path / "model")
    assert torch.equal(logps(load_model(tmp_path / "model").model), logps(other))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_adapters_load_here_and_in_plain_peft_and_merge(tiny, tiny_dir, tmp_path):
    base = tiny_dir("llama")
    model = adapted(AutoModelForCausalLM.from_pretrained(base))
    path = save_model(model, tiny()[1], tmp_path / "run" / "model")
    assert not (path / "model.safetensors").exists()
    loaded = load_model(tmp_path / "run")
    assert isinstance(loaded.model, PeftModel)
    assert loaded.path == path
    assert torch.equal(logps(loaded.model), logps(model))
    assert torch.equal(logps(AutoPeftModelForCausalLM.from_pretrained(path)), logps(model))
    assert loaded.tokenizer.chat_template == tiny()[1].chat_template
    whole = loaded.tuner.merge(loaded.model)
    assert not isinstance(whole, PeftModel)
    torch.testing.assert_close(logps(whole), logps(model), atol=1e-4, rtol=0)
    assert Tuner().merge(whole) is whole


def test_fingerprints_follow_the_weights(tiny, tiny_dir, tmp_path):
    model, tokenizer = tiny("gpt2")
    one, two = save_model(model, tokenizer, tmp_path / "one"), save_model(model, tokenizer, tmp_path / "two")
    assert load_model(one).fingerprint == load_model(two).fingerprint == fingerprint_of(one)
    in_memory = fingerprint_of(model)
    assert in_memory == fingerprint_of(load_model(one).model)
    with torch.no_grad():
        model.transformer.ln_f.bias[3] += 1e-6
    assert fingerprint_of(model) != in_memory
    assert load_model(save_model(model, tokenizer, tmp_path / "two")).fingerprint != fingerprint_of(one)
    base = tiny_dir("llama")
    adapter = save_model(adapted(AutoModelForCausalLM.from_pretrained(base)), tokenizer, tmp_path / "adapter")
    before = fingerprint_of(adapter)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint_of(adapter) != before  # the base is part of what the adapter computes


def test_it_loads_in_the_type_that_is_asked_for(tiny, tmp_path):
    model, tokenizer = tiny("llama")
    state = {k: v * 2 for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    got = load_model(save_model(model, tokenizer, tmp_path / "m"), torch.bfloat16).model
    assert got.dtype == torch.bfloat16
    assert torch.equal(got.lm_head.weight, state["lm_head.weight"].bfloat16())


def test_laboratory_models_are_known_by_name_and_by_descent(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "LAB_DIRECTORY", tmp_path / "models")
    with pytest.raises(UserError, match="holdfast lab build"):
        load_model("lab")
    model, tokenizer = tiny("llama")
    save_model(model, tokenizer, tmp_path / "models" / "lab")
    assert load_model("lab").lab
    assert loading.is_lab("lab")
    path = save_model(
        adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "lab")), tokenizer, tmp_path / "tuned"
    )
    assert load_model(path).lab
    assert loading.is_lab(path)
    model.config.holdfast_lab = True
    path = save_model(model, tokenizer, tmp_path / "descendant")
    assert load_model(path).lab
    assert loading.is_lab(path)
    model.config.holdfast_lab = False
    assert not loading.is_lab(save_model(model, tokenizer, tmp_path / "other"))


def complaint(name) -> str:
    with pytest.raises(UserError) as caught:
        load_model(name)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_what_is_not_a_model_is_named(tiny, tiny_dir, tmp_path):
    assert "no such folder, and not in the cache" in complaint("nobody/has-this-model")
    assert "no such folder; give that of a model" in complaint("./no/such/folder")
    assert "no such folder" in complaint("/no/such/folder")
    assert "config.json is missing" in complaint(tmp_path)
    (tmp_path / "resolved.yaml").write_text("")
    assert "no model yet" in complaint(tmp_path)
    file = tmp_path / "rows.jsonl"
    file.write_text("")
    assert "is a file" in complaint(file)
    path = tiny_dir("llama")
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()
    assert "tokenizer" in complaint(path)
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in complaint(path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    assert "pickled weights are not read" in complaint(path)
    (path / "pytorch_model.bin").rename(path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "unheard-of"}))
    assert "not a causal language model" in complaint(path)


def test_an_adapter_without_its_base_says_so(tiny, tiny_dir, tmp_path):
    base = tiny_dir("llama")
    path = save_model(adapted(AutoModelForCausalLM.from_pretrained(base)), tiny()[1], tmp_path / "adapter")
    base.rename(base.with_name("moved"))
    assert "adapter_config.json: base model" in complaint(path)
    (path / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in complaint(path)


def test_an_adapter_of_another_base_is_refused_in_one_line(tiny, tmp_path):
    """Whoever trained it: without a fingerprint it goes by shapes, names and layers, of which PEFT checks a part."""
    lora = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    cases = (
        (LoraConfig(**lora), "llama", {"hidden_size": 64}, "q_proj.lora_A.default.weight is of another shape"),
        (LoraConfig(**lora), "gpt2", {}, "none of the modules it sits beside is there"),
        (
            LoraConfig(**lora),
            "llama",
            {"num_hidden_layers": 1},
            "layers.1.self_attn.q_proj is not in the base (1 such)",
        ),
        (LoraConfig(**lora), "llama", {"num_hidden_layers": 3}, "layers.2.self_attn.q_proj is not in the adapter"),
        (PROMPT, "llama", {"hidden_size": 64}, "its token_dim is 32, that of the base 64"),
        (PROMPT, "llama", {"num_hidden_layers": 3}, "its num_layers is 2, that of the base 3"),
    )
    for number, (config, kind, shape, said) in enumerate(cases):
        adapter = tmp_path / str(number)
        get_peft_model(tiny("llama")[0], copy.deepcopy(config)).save_pretrained(adapter)
        for name, overrides in (("right", {}), ("wrong", shape)):
            base = tmp_path / f"{name}-{number}"
            tiny(kind if name == "wrong" else "llama", **overrides)[0].save_pretrained(base)
            tiny()[1].save_pretrained(base)
            settings = json.loads((adapter / "adapter_config.json").read_text())
            settings["base_model_name_or_path"] = str(base)
            (adapter / "adapter_config.json").write_text(json.dumps(settings))
            if name == "right":
                load_model(adapter)
        told = complaint(adapter)
        assert f"does not belong to {base}: " in told
        assert said in told
        assert "\n" not in told
