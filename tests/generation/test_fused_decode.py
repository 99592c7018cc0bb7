"""The joined forward pass: the model's own logits, on the models that it fits, and on no other."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from holdfast.generation.fused_decode import FusedForward, PlainForward, build_forward

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
CASES = {
    "llama": ("llama", {}),
    "llama with grouped keys": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3}),
    "qwen2": ("qwen2", {"num_key_value_heads": 1}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    "mistral": ("mistral", {"num_key_value_heads": 2, "sliding_window": None, "head_dim": 16}),
}
OTHERS = {
    "sliding window": ("mistral", {"sliding_window": 4}),
    "gelu": ("llama", {"hidden_act": "gelu"}),
    "gemma2": ("gemma2", {"head_dim": 16}),
    "gpt2": ("gpt2", {"n_embd": 48, "n_layer": 2, "n_head": 4}),
}


def tiny(kind: str, options: dict):
    shape = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=60, **(({} if kind == "gpt2" else shape) | options))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for p in model.parameters():  # biases and norms are born as zeros and ones, which would hide mistakes
            torch.nn.init.normal_(p, float(p.ndim == 1 and p.std() == 0), 0.2)
    return model


@torch.no_grad()
def answers(forward) -> list[torch.Tensor]:
    """Logits of two decoding steps after a prompt of four and one of two tokens, whose first two are read apart."""
    cache = DynamicCache()
    ids = torch.tensor([[3, 9, 12, 40], [3, 9, 3, 3]])
    forward.prefill_cache(ids[:, :2], torch.tensor([[0, 1], [0, 1]]), cache)
    forward.prefill_cache(ids[:, 2:], torch.tensor([[2, 3], [2, 3]]), cache)
    mask = torch.tensor([[True, True, True, True, True], [True, True, False, False, True]])
    out = [forward.decode_logits(torch.tensor([[7], [8]]), torch.tensor([[4], [2]]), mask, cache)]
    mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.bool)], 1)
    return [*out, forward.decode_logits(torch.tensor([[1], [2]]), torch.tensor([[5], [3]]), mask, cache)]


@pytest.mark.parametrize("case", CASES)
def test_joined_weights_give_the_models_own_logits(case):
    model = tiny(*CASES[case])
    assert isinstance(build_forward(model), FusedForward)
    for ours, theirs in zip(answers(FusedForward(model)), answers(PlainForward(model)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5), float((ours - theirs).abs().max())


@pytest.mark.parametrize("case", OTHERS)
def test_any_other_model_runs_as_it_is(case):
    assert isinstance(build_forward(tiny(*OTHERS[case])), PlainForward)


def test_half_precision_and_adapters_run_as_they_are():
    assert isinstance(build_forward(tiny(*CASES["llama"]).bfloat16()), PlainForward)
    adapted = get_peft_model(tiny(*CASES["llama"]), LoraConfig(target_modules=["q_proj"], r=2))
    assert isinstance(build_forward(adapted), PlainForward)
    assert isinstance(build_forward(adapted.merge_and_unload()), FusedForward)
