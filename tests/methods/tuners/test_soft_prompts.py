"""Prompt, p-tuning and prefix: scored as PEFT computes, base without them, folded on disk, and what theory says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import DynamicCache

from holdfast.data.batching.batches import collate_sequences
from holdfast.errors import UserError
from holdfast.methods.tuners.prefix import Prefix
from holdfast.methods.tuners.prompt import Prompt
from holdfast.methods.tuners.ptuning import PTuning
from holdfast.models import loading, saving
from holdfast.models.policy import Policy
from holdfast.pipeline.readiness import check_readiness
from holdfast.recipe.schema import Recipe

TUNERS = (Prompt(tokens=3), PTuning(tokens=3), PTuning(tokens=3, encoder="lstm", hidden_size=8), Prefix(tokens=3))
STORED = {"prompt": (3, 32), "ptuning": (3, 32), "prefix": (3, 2 * 2 * 16)}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("projection", [True, False])
def test_a_prefix_is_scored_as_peft_computes_it_and_the_reference_is_the_base(tiny, make_rows, kind, projection):
    model = Prefix(tokens=3, projection=projection, hidden_size=8).apply(tiny(kind)[0], seed=0).eval()
    batch = collate_sequences(make_rows(4), "padded", 0)
    policy = Policy(model, base=model.disable_adapter)
    assert not policy.isolates_packed_rows
    with torch.no_grad():
        wanted = model(input_ids=batch.input_ids).logits.flatten(0, 1)[batch.label_positions]  # [N, V]
        logps = -F.cross_entropy(wanted.float(), batch.labels, reduction="none")
        torch.testing.assert_close(policy.token_logps(batch), logps, atol=1e-4, rtol=1e-4)
        base = Policy(tiny(kind)[0]).token_logps(batch)
    torch.testing.assert_close(policy.reference_logps(batch), base, atol=1e-4, rtol=1e-4)
    assert float((base - logps).abs().max()) > 0.01
    policy.token_logps(batch).sum().backward()
    assert float(model.prompt_encoder["default"].embedding.weight.grad.abs().sum()) > 0


def test_on_disk_is_what_stands_before_a_sequence_and_not_the_network(tiny_dir, tmp_path: Path):
    for n, tuner in enumerate(TUNERS):
        base = loading.load_model(tiny_dir("llama"))
        saving.save_model(tuner.apply(base.model, 0), base.tokenizer, tmp_path / str(n), tuner=tuner)
        (tensor,) = load_file(tmp_path / str(n) / "adapter_model.safetensors").values()
        assert tuple(tensor.shape) == STORED[type(tuner).__name__.lower()]


def test_a_prompt_starts_from_words_or_from_the_vocabulary(tiny_dir):
    base = loading.load_model(tiny_dir("llama"))
    vocabulary = base.model.get_input_embeddings().weight
    ids = base.tokenizer.encode("The capital", add_special_tokens=False)
    prompts = [
        Prompt(tokens=len(ids) + 1, **more).apply(loading.load_model(base.path).model, 0).prompt_encoder["default"]
        for more in ({"init": "text", "text": "The capital"}, {})
    ]
    assert torch.equal(prompts[0].embedding.weight, vocabulary[[*ids, ids[0]]])
    assert all(any(torch.equal(row, token) for token in vocabulary) for row in prompts[1].embedding.weight)


def test_one_key_adds_a_direction_and_leaves_what_tokens_look_at(tiny):
    """Petrov et al. 2023: A'_ij = (1 - A'_i0) A_ij, and the output is A'_i0 v + (1 - A'_i0) t_i."""
    model = tiny("llama", num_key_value_heads=4)[0].double()
    model.set_attn_implementation("eager")
    attention = model.model.layers[0].self_attn
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 6, 32, generator=generator, dtype=torch.float64)
    rotary = model.model.rotary_emb(x, torch.arange(6)[None])
    key, value = torch.randn(2, 1, 4, 1, 8, generator=generator, dtype=torch.float64)
    cache = DynamicCache()
    cache.update(key, value, 0)
    causal = torch.full((6, 6), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    inputs = {"hidden_states": x, "position_embeddings": rotary}
    with torch.no_grad():
        plain, a = attention(**inputs, attention_mask=causal)
        tuned, b = attention(**inputs, attention_mask=F.pad(causal, (1, 0)), past_key_values=cache)
        share = b[..., :1]  # [1, H, T, 1]; softmax is in fp32 whatever the rest is
        torch.testing.assert_close(b[..., 1:], (1 - share) * a, atol=1e-6, rtol=1e-6)
        heads = a @ attention.v_proj(x).view(1, 6, 4, 8).transpose(1, 2)  # [1, H, T, D]
        both = share * value + (1 - share) * heads
        wanted = attention.o_proj(both.transpose(1, 2).reshape(1, 6, 32))
    torch.testing.assert_close(tuned, wanted, atol=1e-6, rtol=1e-6)
    assert float((tuned - plain).abs().max()) > 1e-3


def test_what_does_not_go_is_said_first(tiny):
    model = tiny("llama")[0]
    for tuner, said in (
        (Prompt(tokens=256), "takes the whole context of LlamaForCausalLM, 256 tokens; set fewer"),
        (Prompt(init="text"), "go together"),
    ):
        with pytest.raises(UserError, match=said):
            tuner.check(model)
    recipe = {"model": "lab-small", "data": {"train": "lab:story"}, "train": {"gradient_checkpointing": "full"}}
    with pytest.raises(UserError, match=r"train\.gradient_checkpointing: .*no keys of tuner prefix; set it to off"):
        check_readiness(Recipe.model_validate(recipe | {"tuner": "prefix"}), None, model)
