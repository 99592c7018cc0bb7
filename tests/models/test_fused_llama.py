"""The Llama body: hidden states and gradients of the model itself, in every layout, with adapters and recomputation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from holdfast.data.batching.batches import collate_sequences
from holdfast.generation.fused_decode import FusedForward, PlainForward, build_forward
from holdfast.models.fused_llama import LlamaBody, SequenceIndex
from holdfast.models.llama_family import supports_model
from holdfast.models.policy import Policy

SIZES = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


def model_of(kind: str, **extra):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **extra}), dtype=torch.float32)


def run(states, model, batch):
    """Hidden states [N, D] where labels are predicted, and the gradients of a random sum of them."""
    model.zero_grad()
    found = states()
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    return found.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=0)
    assert one[1].keys() == other[1].keys() != set()
    for name, grad in one[1].items():
        assert torch.dist(grad, other[1][name]) <= 1e-5 * grad.norm(), name


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_it_computes_what_the_model_computes(kind, layout, make_rows):
    model = model_of(kind, **({"sliding_window": None} if kind == "mistral" else {}))
    assert supports_model(model)
    batch = collate_sequences(make_rows(9), layout, 0)
    policy = Policy(model)
    wanted = run(lambda: policy.hidden_states(batch)[batch.label_positions], model, batch)
    same(wanted, run(lambda: LlamaBody(model)(batch, batch.label_positions, None)[0], model, batch))
    for recomputation in ("full", "selective"):
        body = LlamaBody(model, recomputation)
        same(wanted, run(lambda body=body: body(batch, batch.label_positions, None)[0], model, batch))
    embeds = policy.embed_tokens(batch.input_ids)
    same(
        wanted,
        run(
            lambda: policy.hidden_states_at(batch, batch.label_positions, policy.embed_tokens(batch.input_ids)),
            model,
            batch,
        ),
    )
    assert torch.equal(
        policy.hidden_states_at(batch, batch.label_positions, embeds),
        policy.hidden_states_at(batch, batch.label_positions),
    )


@pytest.mark.parametrize("trains", [True, False])
def test_an_embedding_that_is_the_head_too_gets_both_gradients(trains, make_rows):
    model = model_of("llama", tie_word_embeddings=True, pad_token_id=7)
    model.get_input_embeddings().weight.requires_grad_(trains)
    batch = collate_sequences(make_rows(9), "padded", 7)
    batch.input_ids[:2, 1:3] = 7  # rows of the padding token have no gradient, wherever they stand
    policy, weights = Policy(model, chunk=5), torch.linspace(0.1, 1, len(batch.labels))
    own = lambda: policy.head.logps_from_hidden(policy.hidden_states(batch)[batch.label_positions], batch.labels, 5)  # noqa: E731
    same(run(own, model, batch), run(lambda: policy.token_logps(batch), model, batch))
    weighted = run(lambda: (own() * weights).sum()[None], model, batch)
    same(weighted, run(lambda: -policy.weighted_nll(batch, weights)[None], model, batch))
    same(
        run(lambda: policy.hidden_states(batch)[batch.label_positions], model, batch),
        run(lambda: policy.hidden_states_at(batch, batch.label_positions), model, batch),
    )


def test_a_mask_says_what_looks_at_what(make_rows):
    model = model_of("llama")
    plain = collate_sequences(make_rows(6), "padded", 0)
    lengths, width = plain.cu_seqlens.diff(), plain.input_ids.shape[1]
    column = torch.arange(width)
    positions = torch.where(column < lengths[:, None], column, 0)
    mask = (column[:, None] >= column).expand(6, 1, width, width).clone()
    masked = replace(plain, attention_mask=mask, position_ids=positions)
    run_on = lambda batch: run(lambda: LlamaBody(model)(batch, batch.label_positions, None)[0], model, batch)  # noqa: E731
    same(run_on(plain), run_on(masked))
    mask[0, 0, 3:, 1] = False
    assert not torch.allclose(run_on(plain)[0][:3], run_on(masked)[0][:3])


def test_an_adapter_is_seen_and_can_be_switched_off(make_rows):
    model = get_peft_model(model_of("llama"), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    policy, batch = Policy(model), collate_sequences(make_rows(5), "packed", 0)
    assert policy.uses_fused_body
    wanted = run(lambda: policy.hidden_states(batch)[batch.label_positions], model, batch)
    same(wanted, run(lambda: policy.hidden_states_at(batch, batch.label_positions), model, batch))
    assert all("lora" in name for name in wanted[1])
    with model.disable_adapter():
        torch.testing.assert_close(
            policy.hidden_states_at(batch, batch.label_positions), policy.hidden_states(batch)[batch.label_positions]
        )


def test_bf16_stays_near(make_rows):
    model, batch = model_of("llama"), collate_sequences(make_rows(5), "packed", 0)
    exact, rough = Policy(model), Policy(model, autocast=torch.bfloat16)
    wanted, ours = exact.token_logps(batch), rough.token_logps(batch)
    theirs = rough.head.logps_from_hidden(rough.hidden_states(batch)[batch.label_positions].float(), batch.labels, 64)
    assert torch.dist(ours, wanted) <= 1.5 * torch.dist(theirs, wanted)
    ours.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("gemma2", {}),
        ("gpt2", {}),
        ("mistral", {"sliding_window": 16}),
        ("llama", {"attention_dropout": 0.1}),
        ("llama", {"hidden_act": "gelu"}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    ],
)
def test_other_models_run_as_they_are(kind, extra):
    assert not supports_model(model_of(kind, **extra))


def test_a_replaced_part_is_noticed():
    class Other(torch.nn.Module):
        pass

    model = model_of("llama")
    mlp = model.model.layers[1].mlp
    for other in (Other(), type("LlamaMLP", (type(mlp),), {})(model.config)):  # a subclass may bear the very name
        model.model.layers[1].mlp = other
        assert not supports_model(model)
    model.model.layers[1].mlp = mlp
    assert supports_model(model)


def test_what_cannot_be_seen_is_found_by_trying(make_rows):
    """An attention function of the user's own leaves classes, hooks and forwards as they are."""

    def doubled(*args, **kwargs):
        mixed, weights = sdpa_attention_forward(*args, **kwargs)
        return mixed * 2, weights

    AttentionInterface.register("doubled", doubled)
    model, batch = model_of("llama"), collate_sequences(make_rows(5), "padded", 0)
    assert Policy(model).uses_fused_body
    assert isinstance(build_forward(model), FusedForward)
    model.set_attn_implementation("doubled")
    assert supports_model(model)
    policy = Policy(model)
    assert not policy.uses_fused_body
    assert isinstance(build_forward(model), PlainForward)
    wanted = policy.head.logps_from_hidden(policy.hidden_states(batch)[batch.label_positions], batch.labels, 64)
    torch.testing.assert_close(policy.token_logps(batch), wanted)


def test_sequences_of_like_length_attend_together():
    lengths = [40, 10, 39, 9, 33, 3]
    ids = torch.zeros(1, sum(lengths), dtype=torch.int64)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    empty = torch.zeros(0, dtype=torch.int64)
    from holdfast.data.batching.batches import Batch

    batch = Batch(ids, positions, empty, empty, empty, empty, empty, empty, len(lengths), sum(lengths), 0.0, offsets)
    spans = SequenceIndex.from_batch(batch)
    assert [group.shape for group in spans.groups] == [(3, 40), (2, 10), (1, 3)]
    assert spans.real.unique().numel() == sum(lengths)
    assert sum(group.tokens for group in spans.groups) == sum(lengths)
