"""Shared prompts in training: the losses, gradients and weights of separate sequences, only where the model can."""

from __future__ import annotations

import math
import os
import signal

import material
import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, FalconConfig, FalconForCausalLM

from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.data.batching.shared_prefix import SharedPrefixTable
from holdfast.data.batching.tokenize import build_table
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.errors import UserInterrupt
from holdfast.methods.objectives.preference.dpo import DPO
from holdfast.models.policy import Policy, precompute_reference
from holdfast.models.recomputation import enable_recomputation
from holdfast.models.stored_values import ReferenceCache
from holdfast.training import layout
from holdfast.training.callbacks import Hooks
from holdfast.training.distributed import Machine
from holdfast.training.prompt_sharing import (
    attention_window,
    estimate_work_saved,
    share_prompts,
    supports_shared_prefix,
)
from holdfast.training.setup import TrainerState
from holdfast.training.trainer import Trainer

VOCABULARY = 320


def pairs(sizes: list[tuple[int, int, int]], agree: float = 1.0, nested: bool = False, seed: int = 0) -> TokenTable:
    """Pairs of `(prompt, chosen, rejected)` tokens.

    Args:
        agree: Share of the prompt that both have.
        nested: The shorter answer is the beginning of the longer one.
    """
    random, out = np.random.default_rng(seed), []
    for row, (prompt, *answers) in enumerate(sizes):
        start = random.integers(3, VOCABULARY, prompt)
        whole = random.integers(3, VOCABULARY, max(answers))
        for role, size in enumerate(answers):
            if role:
                start = np.where(np.arange(prompt) < agree * prompt, start, random.integers(3, VOCABULARY, prompt))
            answer = whole[:size] if nested else random.integers(3, VOCABULARY, size)
            ids = np.concatenate([start, answer]).astype(np.int32)
            out.append(EncodedSequence(ids, np.arange(len(ids)) >= prompt, row, role, 1 + 0.3 * row))
    return TokenTable.from_sequences(out)


def turns(tokenizer) -> TokenTable:
    """Prompts with several turns, the assistant's among them."""
    talk = [("user", "Add 12 and 30."), ("assistant", "42"), ("user", "Now subtract 5."), ("assistant", "37")]
    prompt = [{"role": role, "content": text} for role, text in talk]
    ask = {"role": "user", "content": "And sort the letters."}
    rows = [
        Row([*prompt, ask], chosen="There are none.", rejected="The answer is Paris, of course."),
        Row(prompt[:1], chosen="42", rejected="43"),
        Row([*prompt[:2], ask], chosen="What letters?", rejected="letters"),
    ]
    return build_table(rows, Chat(tokenizer), max_length=512, kind="pair")[0]


TABLES = {
    "one prompt": lambda t: pairs([(9, 5, 7), (6, 8, 3), (12, 1, 4)]),
    "prompts of very different lengths": lambda t: pairs([(60, 4, 6), (1, 5, 5), (25, 12, 2), (3, 2, 9)]),
    "no common beginning": lambda t: pairs([(9, 5, 7), (6, 8, 3)], agree=0),
    "prompts that part": lambda t: pairs([(9, 5, 7), (20, 8, 3)], agree=0.5),
    "one answer begins the other": lambda t: pairs([(9, 3, 7), (6, 8, 1), (5, 4, 4)], nested=True),
    "several turns": turns,
    "labels between turns": lambda t: TokenTable.from_sequences(_scattered()),
}


def _scattered() -> list[EncodedSequence]:
    sequences = [s for row in range(6) for s in pairs([(7, 9, 12)] * 6).row_sequences(row)]
    random = np.random.default_rng(1)
    for one in sequences:
        one.label_mask[1:-1] = random.random(len(one.ids) - 2) < 0.3
    return sequences


def result(policy: Policy, table: TokenTable, reference: ReferenceCache):
    """Loss, label log-probabilities and gradients of DPO on all rows at once."""
    policy.reference = reference
    batch = table.collate_rows(range(len(table)), "padded", 0)
    loss = DPO(beta=0.5).losses(policy, batch).sums["preference"]
    loss.backward()
    found = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return loss.detach(), policy.token_logps(batch).detach(), found


def moved(model) -> None:
    """Away from the reference, so that the loss is not ln 2 everywhere."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gemma2"])
def test_losses_and_gradients_are_those_of_separate_sequences(tiny, kind, case):
    model, tokenizer = tiny(kind, **({"sliding_window": 200} if kind == "gemma2" else {}))
    policy, table = Policy(model), TABLES[case](tokenizer)
    joint = SharedPrefixTable(table)
    assert supports_shared_prefix(policy, int(joint.widths.max()))
    assert (joint.prefixes.max() > 0) == (case != "no common beginning")
    precompute_reference(policy, [joint.collate_rows([row], "padded", 0) for row in range(len(table))])
    reference = policy.reference
    moved(model)
    loss, logps, gradients = result(policy, table, reference)
    shared_loss, shared_logps, shared_gradients = result(policy, joint, reference)
    assert not math.isclose(loss.item() / len(table), math.log(2), rel_tol=1e-3)
    torch.testing.assert_close(shared_loss, loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared_logps, logps, atol=1e-5, rtol=0)
    assert gradients.keys() == shared_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.dist(shared_gradients[name], gradient) <= 1e-5 * gradient.norm().clamp_min(1e-2), name


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_rejected_never_feels_chosen_nor_the_other_way(tiny, kind):
    policy = Policy(tiny(kind, **({"sliding_window": 200} if kind == "gemma2" else {}))[0])
    batch = SharedPrefixTable(pairs([(9, 5, 7), (4, 6, 3)])).collate_rows([0, 1], "padded", 0)
    first = batch.sequence % 2 == 0
    before = policy.token_logps(batch)
    for mine in (first, ~first):
        changed = batch.input_ids.clone()
        answer = batch.label_positions[mine][
            ~torch.isin(batch.label_positions[mine], batch.label_positions[~mine])
        ]  # not the end of the prompt
        changed.view(-1)[answer] = (changed.view(-1)[answer] + 1) % VOCABULARY
        whole, batch.input_ids = batch.input_ids, changed
        after = policy.token_logps(batch)
        batch.input_ids = whole
        assert torch.equal(before[~mine], after[~mine])
        assert not torch.equal(before[mine], after[mine])


def test_recomputed_activations_and_bf16(tiny):
    model, _ = tiny("llama")
    table = pairs([(9, 5, 7), (6, 8, 3)])
    joint, policy = SharedPrefixTable(table), Policy(model)
    precompute_reference(policy, [table.collate_rows([0, 1], "padded", 0)])
    moved(model)
    _, logps, gradients = result(policy, joint, policy.reference)
    half = Policy(model, autocast=torch.bfloat16)
    assert supports_shared_prefix(half, 40)
    torch.testing.assert_close(result(half, joint, policy.reference)[1], logps, atol=0.1, rtol=0)
    enable_recomputation(model.train(), "full")
    again = result(policy, joint, policy.reference)[2]
    for name, gradient in gradients.items():
        assert torch.dist(again[name], gradient) <= 1e-5 * gradient.norm().clamp_min(1e-2), name


def test_models_that_cannot_are_known(tiny):
    assert supports_shared_prefix(Policy(tiny("llama")[0]), 10_000)
    assert supports_shared_prefix(Policy(tiny("gemma2")[0]), 16)
    assert not supports_shared_prefix(Policy(tiny("gemma2")[0]), 17)  # its sliding window
    size = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 1, "n_head": 4}
    assert not supports_shared_prefix(Policy(BloomForCausalLM(BloomConfig(**size))), 8)  # no position ids
    falcon = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    assert supports_shared_prefix(Policy(FalconForCausalLM(FalconConfig(**falcon))), 8)
    assert not supports_shared_prefix(Policy(FalconForCausalLM(FalconConfig(**falcon, alibi=True))), 8)
    policy = Policy(tiny("llama")[0])
    policy.config._attn_implementation = "flash_attention_2"
    assert not supports_shared_prefix(policy, 8)
    model, _ = tiny("llama")
    own = model.base_model.forward
    model.base_model.forward = lambda *args, position_ids=None, attention_mask=None, **more: own(*args, **more)
    assert not supports_shared_prefix(Policy(model), 8)  # takes both and obeys neither


def test_reach(tiny):
    def config(**fields):
        made = tiny("llama")[0].config
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    assert attention_window(config()) == attention_window(config(sliding_window=None)) == math.inf
    assert attention_window(config(sliding_window=64)) == 64
    assert attention_window(config(sliding_window=64, layer_types=["full_attention"] * 2)) == math.inf
    assert attention_window(config(sliding_window=64, layer_types=["full_attention", "sliding_attention"])) == 64
    assert attention_window(config(attention_chunk_size=32, layer_types=["chunked_attention", "full_attention"])) == 32
    assert attention_window(config(layer_types=["linear_attention", "full_attention"])) == 0


def test_shared_where_it_saves(tiny):
    policy = Policy(tiny("llama")[0])
    assert isinstance(share_prompts(pairs([(40, 10, 10)] * 4), policy), SharedPrefixTable)
    for plain in (pairs([(2, 20, 20)] * 4), pairs([(40, 10, 10)] * 4, agree=0), material.table()):
        assert share_prompts(plain, policy) is plain
    long = pairs([(40, 10, 10)] * 4)
    assert share_prompts(long, Policy(tiny("gemma2")[0])) is long
    # 50 + 50 tokens become 60: nearly 40 % of the products with weights, less where attention weighs in.
    some = estimate_work_saved(long, SharedPrefixTable(long), policy)
    assert 0.25 < some < 0.4
    thousands = pairs([(1000, 1000, 1000)])
    assert estimate_work_saved(thousands, SharedPrefixTable(thousands), policy) < 0


# --- whole runs ---


def table() -> TokenTable:
    """Prompts twice as long as the answers."""
    random, out = np.random.default_rng(0), []
    for row in range(16):
        prompt = random.integers(2, material.VOCABULARY, int(random.integers(8, 24)))
        for role in (0, 1):
            answer = random.integers(2, material.VOCABULARY, int(random.integers(3, 9)))
            ids = np.concatenate([prompt, answer]).astype(np.int32)
            out.append(EncodedSequence(ids, np.arange(len(ids)) >= len(prompt), row, role))
    return TokenTable.from_sequences(out, fingerprint="pairs")


def recipe(**axes):
    axes = {"objective": "dpo", "optimizer": {"name": "adamw", "learning_rate": 1e-3}} | axes
    return material.recipe({"layout": "padded", "batch_tokens": 250, "micro_tokens": 120}, **axes)


def fit(out, model=None, hooks=None, **axes):
    return Trainer(recipe(**axes), model or material.model(), table(), out, pad_id=0, hooks=hooks).fit()


def weights(result) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in result.model.named_parameters()}


def bench(tmp_path, **train) -> TrainerState:
    made = recipe()
    made = made.model_copy(update={"train": made.train.model_copy(update=train)})
    built = TrainerState(made, material.model(), table(), Machine("fp32", torch.device("cpu")), 0)
    built.build({})
    return built


def test_the_bench_decides(tmp_path):
    assert isinstance(bench(tmp_path).table, SharedPrefixTable)
    assert bench(tmp_path).collate_rows([0, 1]).input_ids.shape[0] == 2
    packed = bench(tmp_path, layout="packed")
    assert not isinstance(packed.table, SharedPrefixTable)
    assert packed.collate_rows([0, 1]).attention_mask is None


@pytest.mark.parametrize("tuner", ["full", {"name": "lora", "r": 4}], ids=["full", "lora"])
def test_a_run_ends_with_the_weights_of_one_without(tmp_path, monkeypatch, tuner):
    logs, tokens = {}, {}
    for name in ("with", "without"):
        seen = []
        if name == "without":
            monkeypatch.setattr(layout, "share_prompts", lambda table, policy, layout: table)
        done = fit(tmp_path / name, hooks=Hooks(on_step=seen.append), tuner=tuner)
        logs[name], tokens[name] = (seen, weights(done)), done.tokens
    (one, after), (other, after_other) = logs["with"], logs["without"]
    assert len(one) == len(other) > 4
    assert tokens["with"] < 0.75 * tokens["without"]
    for a, b in zip(one, other, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=1e-5)
        assert a.trained_tokens == b.trained_tokens
        assert a.metrics["rewards/margin"] == pytest.approx(b.metrics["rewards/margin"], abs=1e-5)
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, after_other[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_stopped_and_run_again_it_ends_bit_equal(tmp_path):
    model = {"attention_dropout": 0.1}

    def on_step(log):
        if log.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(UserInterrupt):
        fit(tmp_path / "parts", material.model(**model), Hooks(on_step=on_step))
    parts, whole = (weights(fit(tmp_path / name, material.model(**model))) for name in ("parts", "whole"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in parts.items())


def test_a_model_that_cannot_trains_on_separate_sequences(tmp_path):
    model = material.model("gemma2", head_dim=8, sliding_window=8)
    seen = []
    fit(tmp_path, model, Hooks(on_step=seen.append))
    assert seen[-1].tokens == 2 * table().lengths.sum()
