"""The policy against plain transformers: the same numbers, whatever the layout, the family and the wrapping."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from holdfast.data.batching.batches import Batch, collate_sequences
from holdfast.errors import UserError
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.models.loading import eval_mode
from holdfast.models.policy import ObjectiveModule, Policy, precompute_reference
from holdfast.models.recomputation import enable_recomputation
from holdfast.models.stored_values import ReferenceCache

KINDS = ("llama", "qwen2", "gpt2", "gemma2")


def plain_logps(model, rows) -> torch.Tensor:
    """Label log-probabilities from the whole logits of each row alone: the definition."""
    out = []
    for row in rows:
        ids = torch.tensor(row.ids).long()[None]
        every = model(input_ids=ids).logits[0].float().log_softmax(-1)  # [n, V]
        places = torch.tensor(np.flatnonzero(row.label_mask))
        out.append(every[places - 1, ids[0, places]])
    return torch.cat(out)


def grads(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def same_grads(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.dist(a[name], b[name]) <= tolerance * a[name].norm().clamp_min(1e-3), name


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_and_gradients_equal_transformers(tiny, make_rows, kind, layout):
    model, tokenizer = tiny(kind)
    rows = make_rows()
    coefficients = torch.linspace(-1, 2, sum(int(r.label_mask.sum()) for r in rows))
    wanted = plain_logps(model, rows)
    (wanted * coefficients).sum().backward()
    wanted_grads = grads(model)
    for chunk in (None, 3):  # all logits in one chunk (kept), and many (computed again)
        policy = Policy(model, chunk=chunk)
        assert policy.head.is_exact
        got = policy.token_logps(collate_sequences(rows, layout, tokenizer.pad_token_id))
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
        (got * coefficients).sum().backward()
        same_grads(wanted_grads, grads(model))


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_is_isolated_too(tiny, make_rows, kind):
    """Law 2: positions that restart after the pads keep them out of sight."""
    model, tokenizer = tiny(kind)
    rows = make_rows()
    right = collate_sequences(rows, "padded", tokenizer.pad_token_id)
    lengths = torch.tensor([len(r.ids) for r in rows])
    width = right.input_ids.shape[1]
    left = replace(right)
    left.input_ids = torch.stack([i.roll(int(width - n)) for i, n in zip(right.input_ids, lengths, strict=True)])
    places = torch.arange(width)[None] - (width - lengths)[:, None]
    left.position_ids = torch.where(places < 0, torch.arange(width)[None], places)
    left.label_positions = right.label_positions + (width - lengths)[right.sequence]
    policy = Policy(model)
    torch.testing.assert_close(policy.token_logps(left), policy.token_logps(right), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_do_not_see_each_other(tiny, make_rows, kind):
    model, _ = tiny(kind)
    rows = make_rows()
    policy = Policy(model)
    assert policy.isolates_packed_rows
    before = policy.token_logps(collate_sequences(rows, "packed", 0))
    rows[0].ids = rows[0].ids[::-1].copy()
    after = policy.token_logps(collate_sequences(rows, "packed", 0))
    n = int(rows[0].label_mask.sum())
    assert not torch.equal(before[:n], after[:n])
    assert torch.equal(before[n:], after[n:])


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("gemma2", {"final_logit_softcapping": 1.0}),
    ],
)
def test_logit_scaling_of_other_families(tokenizer, make_rows, kind, extra):
    config = AutoConfig.for_model(
        kind, vocab_size=320, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, initializer_range=0.5, bos_token_id=None, pad_token_id=0, **extra,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = make_rows()
    wanted = plain_logps(model, rows)
    wanted.sum().backward()
    wanted_grads = grads(model)
    policy = Policy(model, chunk=4)
    assert policy.head.is_exact
    assert (policy.head.scale, policy.head.cap) != (1.0, 0.0)
    got = policy.token_logps(collate_sequences(rows, "padded", 0))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    got.sum().backward()
    same_grads(wanted_grads, grads(model))


def test_unknown_heads_fall_back_on_the_models_own_logits(tiny, make_rows):
    model, _ = tiny("llama")
    own = model.forward

    def odd(*args, **kwargs):
        out = own(*args, **kwargs)
        out.logits = out.logits * torch.linspace(0.5, 2, 320)
        return out

    model.forward = odd
    rows = make_rows()
    policy = Policy(model)
    assert not policy.head.is_exact
    batch = collate_sequences(rows, "packed", 0)
    torch.testing.assert_close(policy.token_logps(batch), plain_logps(model, rows), atol=1e-5, rtol=0)
    assert torch.equal(
        policy.greedy_tokens(batch, batch.label_positions), policy.logits_at(batch, batch.label_positions).argmax(-1)
    )


def test_logits_greedy_hidden_and_embed(tiny, make_rows):
    for kind in KINDS:
        model, _ = tiny(kind)
        policy = Policy(model, chunk=5)
        batch = collate_sequences(make_rows(), "padded", 0)
        wanted = model(input_ids=batch.input_ids).logits.flatten(0, 1)[batch.label_positions]
        torch.testing.assert_close(policy.logits_at(batch, batch.label_positions), wanted, atol=1e-5, rtol=0)
        assert torch.equal(policy.greedy_tokens(batch, batch.label_positions), wanted.argmax(-1))
        embeds = policy.embed_tokens(batch.input_ids)
        assert torch.equal(
            policy.hidden_states_at(batch, batch.label_positions, embeds),
            policy.hidden_states_at(batch, batch.label_positions),
        )
        assert torch.equal(policy.token_logps(batch, embeds), policy.token_logps(batch))
        assert policy.hidden_states_at(batch, batch.label_positions).shape == (len(batch.label_positions), 32)


def test_logits_never_exist_for_the_whole_batch(tiny, make_rows):
    model, _ = tiny("llama", vocab_size=5000)
    policy = Policy(model, chunk=4)
    batch = collate_sequences(make_rows(8), "padded", 0)
    assert len(batch.labels) > 40
    made, shape = [], policy.head.apply_scale_and_cap

    def recorded(logits):
        made.append(len(logits))
        return shape(logits)

    policy.head.apply_scale_and_cap = recorded
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        logps = policy.token_logps(batch)
    logps.sum().backward()
    assert max(made) == 4
    assert sum(made) == 2 * len(batch.labels)  # once forward, once back
    assert max(kept) == 5000 * 32  # the head's weight; no logits


def test_frozen_head_gets_no_gradient_and_the_body_the_same(tiny, make_rows):
    model, _ = tiny("llama")
    batch = collate_sequences(make_rows(), "padded", 0)
    Policy(model).token_logps(batch).sum().backward()
    wanted = grads(model)
    del wanted["lm_head.weight"]
    model.lm_head.weight.requires_grad_(False)
    Policy(model, chunk=3).token_logps(batch).sum().backward()
    same_grads(wanted, grads(model))


def test_head_with_bias(tiny, make_rows):
    model, _ = tiny("llama")
    head = nn.Linear(32, 320)
    model.set_output_embeddings(head)
    rows = make_rows()
    plain_logps(model, rows).sum().backward()
    wanted = grads(model)
    Policy(model, chunk=3).token_logps(collate_sequences(rows, "packed", 0)).sum().backward()
    same_grads(wanted, grads(model))


@pytest.mark.parametrize("where", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_adapters_on_the_head(tiny, make_rows, where):
    model, _ = tiny("llama")
    config = {"target_modules": ["q_proj"], "r": 4, "init_lora_weights": False, "task_type": "CAUSAL_LM"} | where
    model = get_peft_model(model, LoraConfig(**config)).eval()
    rows = make_rows()
    wanted = plain_logps(model, rows)
    wanted.sum().backward()
    wanted_grads = grads(model)
    assert any("lm_head" in name for name in wanted_grads)
    got = Policy(model, chunk=3).token_logps(collate_sequences(rows, "packed", 0))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    got.sum().backward()
    same_grads(wanted_grads, grads(model))


@pytest.mark.parametrize(("kind", "lora"), [("gemma2", False), ("gpt2", False), ("qwen3", True)])
def test_recomputed_activations_change_nothing_and_selectively_cost_no_products(tiny, make_rows, kind, lora):
    batch, work, gradients = collate_sequences(make_rows(), "padded", 0), {}, {}
    for recomputation in ("off", "selective", "full"):
        model, _ = tiny(kind)
        if lora:
            torch.manual_seed(0)
            settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
            model = get_peft_model(model, settings)
        policy = Policy(model.train(), recomputation=recomputation)
        enable_recomputation(policy.causal, recomputation)
        with FlopCounterMode(display=False) as counter:
            policy.hidden_states(batch).pow(2).sum().backward()  # by the model's own layers
        work[recomputation], gradients[recomputation] = counter.get_total_flops(), grads(model)
    assert work["off"] <= work["selective"] < work["full"]
    # Gemma 2 writes its attention out, [L, L] products; below adapters transformers asks for the gradient of the input.
    assert (work["selective"] == work["off"]) == (kind == "gpt2")
    same_grads(gradients["off"], gradients["selective"])
    same_grads(gradients["off"], gradients["full"])


@pytest.mark.parametrize("chunk", [None, 3])
def test_bf16_autocast_is_near_fp32_and_reaches_every_weight(tiny, make_rows, chunk):
    model, _ = tiny("llama")
    batch = collate_sequences(make_rows(), "padded", 0)
    exact = Policy(model).token_logps(batch)
    exact.sum().backward()
    wanted = grads(model)
    policy = Policy(model, chunk=chunk, autocast=torch.bfloat16)
    policy.greedy_tokens(batch, batch.label_positions)  # casts made here must not swallow the gradients below
    got = policy.token_logps(batch)
    assert got.dtype == torch.float32
    assert not torch.equal(got, exact)
    torch.testing.assert_close(got, exact, atol=0.1, rtol=0)
    got.sum().backward()
    same_grads(wanted, grads(model), 0.05)


def test_bf16_weights(tiny, make_rows):
    model, _ = tiny("qwen2")
    rows = make_rows()
    exact = plain_logps(model, rows)
    got = Policy(model.bfloat16(), chunk=3).token_logps(collate_sequences(rows, "packed", 0))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, exact, atol=0.2, rtol=0)
    got.sum().backward()
    assert model.lm_head.weight.grad.dtype == torch.bfloat16


def test_modes_survive(tiny):
    model, _ = tiny("llama")
    model.train()
    model.lm_head.eval()
    with eval_mode(model):
        assert not any(m.training for m in model.modules())
    Policy(model)
    assert model.training
    assert not model.lm_head.training


def test_reference_is_computed_once_stored_and_found_again(tiny, make_rows, tmp_path):
    model, _ = tiny("gpt2", resid_pdrop=0.5)  # dropout: the reference must not feel it
    model.train()
    rows = make_rows(4, pairs=True)
    batches = [collate_sequences(rows[:4], "padded", 0), collate_sequences(rows[4:], "packed", 0)]
    wanted = plain_logps(model.eval(), rows)
    cache = ReferenceCache.in_directory(tmp_path, "model", "data")
    policy = Policy(model.train(), reference=cache)
    with pytest.raises(UserError, match="needs_reference"):
        policy.reference_logps(batches[0])
    precompute_reference(policy, batches)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)  # the weights move
    again = Policy(model, reference=ReferenceCache.in_directory(tmp_path, "model", "data"))
    for held in (policy, again):
        got = torch.cat([held.reference_logps(b) for b in batches])
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
        assert not got.requires_grad
    other = collate_sequences([rows[6], rows[7], rows[0], rows[1]], "packed", 0)
    split = np.cumsum([int(r.label_mask.sum()) for r in rows])
    parts = torch.tensor_split(wanted, split[:-1].tolist())
    torch.testing.assert_close(
        again.reference_logps(other), torch.cat([parts[i] for i in (6, 7, 0, 1)]), atol=1e-5, rtol=0
    )
    assert ReferenceCache.in_directory(tmp_path, "model", "other data").find_values(batches[0]) is None
    assert len(list(tmp_path.iterdir())) == 1


def test_reference_with_the_adapter_off(tiny, make_rows):
    base, _ = tiny("llama")
    rows = make_rows()
    wanted = plain_logps(base, rows).detach()
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, lora_dropout=0.5, task_type="CAUSAL_LM")
    model = get_peft_model(base, config).train()
    policy = Policy(model, base=model.disable_adapter)
    batch = collate_sequences(rows, "padded", 0)
    torch.testing.assert_close(policy.reference_logps(batch), wanted, atol=1e-5, rtol=0)
    assert torch.dist(policy.token_logps(batch), wanted) > 0.1
    policy.base = contextlib.nullcontext  # would give the adapted model's numbers
    torch.testing.assert_close(policy.reference_logps(batch), wanted, atol=1e-5, rtol=0)


def test_scorer_runs_the_objective_inside_forward(tiny, make_rows):
    model, _ = tiny("llama")
    policy = Policy(model)
    batch: Batch = collate_sequences(make_rows(), "padded", 0)
    scorer = ObjectiveModule(policy, SFT())
    assert {id(p) for p in scorer.parameters()} == {id(p) for p in model.parameters()}
    sums, metrics = scorer(batch)
    assert torch.equal(sums["nll"], -policy.token_logps(batch).sum())
    assert metrics == {}
