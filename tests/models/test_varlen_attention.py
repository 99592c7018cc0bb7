"""Packed lines read by the lengths of their rows: the numbers of single rows, proven by the policy, or refused by name.

The kernel itself runs on CUDA only; here a slow function of its signature stands in its place.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, FalconConfig, FalconForCausalLM

from holdfast.data.batching.batches import TokenTable, collate_sequences
from holdfast.data.batching.shared_prefix import SharedPrefixTable
from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError
from holdfast.models.joint_policy import JointPolicy
from holdfast.models.policy import Policy
from holdfast.models.recomputation import enable_recomputation
from holdfast.models.row_features import label_logps, mean_states
from holdfast.models.varlen_attention import find_kernel
from holdfast.training.layout import choose_layout, describe_attention
from holdfast.training.prompt_sharing import share_prompts
from varlen_reference import reference_varlen

CPU = torch.device("cpu")
WINDOWED = {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
KINDS = {"llama": {}, "qwen3": {"head_dim": 8}, "gemma3_text": WINDOWED, "gpt2": {}, "phi": {}}


def score_rows(policy: Policy, batches) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probabilities of the labels through the model's own layers, and gradients of a weighted sum of them."""
    policy.model.zero_grad()
    parts = []
    for batch in batches:
        states = policy.hidden_states(batch)[batch.label_positions]
        parts.append(policy.head.logps_from_hidden(states, batch.labels, 64))
    logps = torch.cat(parts)
    (logps * torch.linspace(-1, 2, len(logps))).sum().backward()
    gradients = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    return logps.detach(), gradients


def assert_same(one, other) -> None:
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=0)
    assert one[1].keys() == other[1].keys()
    for name, gradient in other[1].items():
        assert torch.dist(one[1][name], gradient) <= 1e-4 * gradient.norm().clamp_min(1e-3), name


def pad_line(batch, count: int):
    """The batch with padding at the end of its line."""
    more = torch.zeros(1, count, dtype=torch.int64)
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, more], 1),
        position_ids=torch.cat([batch.position_ids, torch.arange(count)[None]], 1),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_packed_is_padded_is_single_rows(tiny, make_rows, kind):
    rows = make_rows()
    plain = Policy(tiny(kind, **KINDS[kind])[0])
    wanted = score_rows(plain, [collate_sequences([row], "padded", 0) for row in rows])
    policy = Policy(tiny(kind, **KINDS[kind])[0], varlen_kernel=reference_varlen)
    assert policy.attention.is_varlen
    assert policy.isolates_packed_rows
    packed = collate_sequences(rows, "packed", 0)
    for batch in (packed, collate_sequences(rows, "padded", 0), pad_line(packed, 7), pad_line(packed, 40)):
        assert_same(score_rows(policy, [batch]), wanted)
    own_logits = policy._own_logits(packed, packed.label_positions, None)
    torch.testing.assert_close(
        own_logits.log_softmax(-1).gather(1, packed.labels[:, None])[:, 0], wanted[0], atol=1e-5, rtol=0
    )
    # Layers that are computed again in the backward pass attend as they did going forward.
    for recomputation in ("full", "selective"):
        enable_recomputation(policy.model.train(), recomputation)
        assert_same(score_rows(policy, [packed]), wanted)


def test_without_lengths_it_is_sdpa(tiny):
    """What samples, and who calls the model with a mask of their own, sees no difference."""
    ids = torch.tensor([[5, 6, 7, 8], [0, 9, 10, 11]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    for kind in ("llama", "gemma3_text"):
        model = tiny(kind, **KINDS[kind])[0]
        before = model(ids, attention_mask=mask).logits[:, 1:], model.generate(ids, attention_mask=mask, max_length=14)
        assert Policy(model, varlen_kernel=reference_varlen).attention.is_varlen
        assert model.config._attn_implementation == "holdfast_reference_varlen"
        after = model(ids, attention_mask=mask).logits[:, 1:], model.generate(ids, attention_mask=mask, max_length=14)
        assert all(map(torch.equal, before, after))
        assert "holdfast" not in model.config.to_json_string()


def attend_without_word(query, key, *args, scale=None, window_size=(-1, -1)):
    """The kernel as torch 2.11 has it: grouped heads need no word."""
    grouped = query.shape[1] != key.shape[1]
    return reference_varlen(query, key, *args, scale=scale, window_size=window_size, enable_gqa=grouped)


def mix_rows(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options):
    whole = torch.tensor([0, len(query)], dtype=torch.int32)
    return attend_without_word(query, key, value, whole, whole, len(query), len(key), **options)


def look_ahead(*args, **options):
    return attend_without_word(*args, **options | {"window_size": (-1, -1)})


def scale_more(*args, **options):
    return attend_without_word(*args, **options | {"scale": 1.5 * options["scale"]})


def drop_gradient(query, key, value, *args, **options):
    return attend_without_word(query, key, value.detach(), *args, **options)


def fail_early(query, key, value, *args, scale, window_size):
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nand more")


WRONG = {
    mix_rows: "packed rows do not give what they give alone",
    look_ahead: "packed rows do not give what they give alone",
    scale_more: "packed rows do not give what they give alone",
    drop_gradient: "the gradients of packed rows are not those of rows alone",
    fail_early: "RuntimeError: FlashAttention only supports Ampere GPUs or newer.",
}


def test_a_wrong_kernel_is_refused_and_the_model_left_as_it_was(tiny, make_rows):
    for kernel, words in WRONG.items():
        for kind in ("llama", "gpt2"):
            model = tiny(kind)[0]
            policy = Policy(model, varlen_kernel=kernel)
            assert policy.attention.name == "sdpa", kernel
            assert policy.attention.refusal == f"{kind}: {words}"
            assert model.config._attn_implementation == "sdpa"
            assert policy.batch_layout == "padded"
            assert policy.isolates_packed_rows  # by transformers' mask


def test_what_lengths_do_not_describe_is_refused_by_name(tiny):
    small = {"vocab_size": 320, "hidden_size": 32}
    hooked = tiny("llama")[0]
    hooked.model.layers[1].self_attn.register_forward_hook(lambda module, args, output: None)
    eager, untold = tiny("llama")[0], tiny("gemma3_text", **WINDOWED)[0]
    eager.set_attn_implementation("eager")
    untold.model.layers[0].self_attn.sliding_window = None
    cases = {
        "gemma2 caps its attention scores": tiny("gemma2")[0],
        "llama: its attention has dropout (0.1)": tiny("llama", attention_dropout=0.1)[0],
        "gpt2: its attention has dropout (0.1)": tiny("gpt2", attn_pdrop=0.1)[0],
        "bloom adds ALiBi's position biases to its attention scores": BloomForCausalLM(
            BloomConfig(**small, n_layer=1, n_head=4)
        ),
        "falcon's attention does not go through transformers' attention interface": FalconForCausalLM(
            FalconConfig(**small, num_hidden_layers=1, num_attention_heads=4)
        ),
        "somebody's own code runs in layers.1.self_attn (a hook, or another forward)": hooked,
        "llama's attention runs as eager": eager,
        "gemma3_text: a window of 6 tokens is not told to its attention as it is to its mask": untold,
        "stablelm: its layers hand no lengths on to their attention": tiny("stablelm")[0],
    }
    for words, model in cases.items():
        name = model.config._attn_implementation
        policy = Policy(model.eval(), varlen_kernel=reference_varlen)
        assert policy.attention.refusal == words
        assert model.config._attn_implementation == policy.attention.name == name
        assert describe_attention(describe_elsewhere(policy), "padded") == f"{name} (padded): {words}"


def describe_elsewhere(policy: Policy) -> SimpleNamespace:
    """What the plan says of a policy where no fused layers run."""
    return SimpleNamespace(attention=policy.attention, uses_fused_body=False, reads_lines_by_length=False)


def test_a_refusal_leaves_generators_and_modes_alone(tiny):
    model = tiny("llama", attention_dropout=0.1)[0]
    model.train()
    model.model.layers[0].eval()
    before = torch.get_rng_state()
    Policy(model, varlen_kernel=reference_varlen)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training
    assert all(p.grad is None for p in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks


def test_torchs_kernel_is_looked_for_on_cuda_only():
    assert find_kernel(torch.device("cpu"), torch.bfloat16) == (None, "")
    assert find_kernel(torch.device("mps"), torch.float16) == (None, "")
    kernel, why = find_kernel(torch.device("cuda"), torch.float32)
    assert kernel is None
    assert why == "varlen attention computes in bf16 or fp16, not float32"


def test_layouts(tiny):
    """Asked for, and by device: (setting, policy) to the layout, and the line of the plan."""
    lengths = Policy(tiny("gpt2")[0], varlen_kernel=reference_varlen)
    masks, fused = Policy(tiny("gpt2")[0]), Policy(tiny("llama")[0])
    refused = Policy(tiny("gemma2")[0], varlen_kernel=reference_varlen)
    cases = [
        ("auto", lengths, 1, "packed", "varlen (packed)"),
        ("auto", lengths, 2, "packed", "varlen (packed)"),
        ("padded", lengths, 1, "padded", "sdpa (padded)"),
        ("auto", masks, 1, "padded", "sdpa (padded)"),
        ("packed", masks, 1, "packed", "sdpa with a mask (packed)"),
        ("auto", fused, 1, "packed", "sdpa, sequence by sequence (packed)"),
        ("auto", fused, 2, "padded", "sdpa, sequence by sequence (padded)"),
        ("auto", refused, 1, "padded", "eager (padded): gemma2 caps its attention scores"),
        ("packed", refused, 1, "packed", "eager with a mask (packed): gemma2 caps its attention scores"),
    ]
    for setting, policy, per_row, layout, line in cases:
        assert choose_layout(setting, policy, per_row, CPU) == layout
        assert describe_attention(policy, layout) == line
    card = torch.device("cuda")  # nothing is put there
    for by_length, layout in ((True, "packed"), (False, "padded")):
        policy = SimpleNamespace(reads_lines_by_length=by_length, isolates_packed_rows=True, uses_fused_body=False)
        assert choose_layout("auto", policy, 1, card) == choose_layout("auto", policy, 2, card) == layout
    mixing = SimpleNamespace(isolates_packed_rows=False)
    with pytest.raises(UserError, match=r"train\.layout: this model cannot keep packed rows apart"):
        choose_layout("packed", mixing, 1, CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_share_their_prompt_by_key_index(tiny, make_rows, kind):
    rows = make_rows(6, pairs=True)
    apart = TokenTable.from_sequences(rows)
    policy = Policy(tiny(kind, **KINDS[kind])[0], varlen_kernel=reference_varlen)
    joint = share_prompts(apart, policy, "packed")
    assert isinstance(joint, SharedPrefixTable)
    numbers = [4, 0, 5, 1]
    wanted = score_rows(policy, [apart.collate_rows(numbers, "packed", 0)])
    batch = joint.collate_rows(numbers, "packed", 0)
    assert len(batch.input_ids) == 1
    assert batch.input_ids.shape[1] == batch.tokens == int(joint.widths[numbers].sum())
    for line in (batch, pad_line(batch, 9), pad_line(batch, 50)):
        assert_same(score_rows(policy, [line]), wanted)
    assert_same(score_rows(policy, [joint.collate_rows([n], "packed", 0) for n in numbers]), wanted)
    # token_logps goes round the layers of a Llama on a CPU, but not for lines like these.
    torch.testing.assert_close(policy.token_logps(batch), wanted[0], atol=1e-5, rtol=0)


def test_shared_lines_are_refused_where_they_would_be_misread(tiny, make_rows):
    apart = TokenTable.from_sequences(make_rows(6, pairs=True))
    by_length, by_mask = Policy(tiny()[0], varlen_kernel=reference_varlen), Policy(tiny()[0])
    batch = share_prompts(apart, by_length, "packed").collate_rows([0, 1], "packed", 0)
    with pytest.raises(UserError, match="cannot read pairs that share their prompt in a packed line"):
        by_mask.token_logps(batch)
    for method in (lambda: batch.select_roles(0), batch.label_every_token):
        with pytest.raises(UserError, match="cannot cut pairs that share the line of their prompt"):
            method()
    assert share_prompts(apart, by_mask, "packed") is apart


def test_micro_batches_of_shared_lines_count_what_is_computed(tiny, make_rows):
    apart = TokenTable.from_sequences(make_rows(12, pairs=True))
    joint = share_prompts(apart, Policy(tiny()[0], varlen_kernel=reference_varlen), "packed")
    limits = {"batch_tokens": 10_000, "micro_tokens": 60, "layout": "packed"}
    parts = joint.build_sampler(**limits).micro_batches(0)
    assert len(parts) < len(apart.build_sampler(**limits).micro_batches(0))
    assert all(int(joint.widths[part].sum()) <= 60 for part in parts)
    assert sorted(row for part in parts for row in part) == list(range(12))


def test_features_and_mixtures_read_packed_lines(tiny, make_rows):
    """What evaluation and curation ask for: the same numbers from packed lines."""
    model, tokenizer = tiny("gpt2")
    chat = Chat(tokenizer)
    encodings = [(row.ids, row.label_mask) for row in make_rows(9)]
    plain, policy = Policy(model), Policy(tiny("gpt2")[0], varlen_kernel=reference_varlen)
    assert (plain.batch_layout, policy.batch_layout) == ("padded", "packed")
    for function in (label_logps, mean_states):
        for one, other in zip(
            function(policy, encodings, chat.pad_id), function(plain, encodings, chat.pad_id), strict=True
        ):
            torch.testing.assert_close(torch.tensor(one), torch.tensor(other), atol=1e-5, rtol=0)
    for other, layout in ((policy, "packed"), (plain, "padded")):
        assert JointPolicy({"tuned": policy, "base": other}, lambda logits: logits["tuned"]).batch_layout == layout


def test_adapters_and_autocast(tiny, make_rows):
    from peft import LoraConfig, get_peft_model

    rows = make_rows()
    model = get_peft_model(
        tiny("llama")[0], LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    batch = collate_sequences(rows, "packed", 0)
    wanted = score_rows(Policy(model), [batch])
    policy = Policy(model, varlen_kernel=reference_varlen)
    assert policy.attention.is_varlen
    assert_same(score_rows(policy, [batch]), wanted)
    # Norms of heads make queries fp32 under autocast, and values stay bf16: the kernel gets one type.
    half = Policy(tiny("qwen3", head_dim=8)[0], autocast=torch.bfloat16, varlen_kernel=reference_varlen)
    assert half.attention.is_varlen
    exact = score_rows(Policy(half.model), [batch])[0]
    torch.testing.assert_close(score_rows(half, [batch])[0], exact, atol=0.2, rtol=0)


def test_a_second_policy_of_a_model_may_decide_otherwise(tiny):
    model = tiny("llama")[0]
    assert Policy(model, varlen_kernel=reference_varlen).attention.is_varlen
    assert Policy(model, varlen_kernel=look_ahead).attention.name == "sdpa"
    assert model.config._attn_implementation == "sdpa"
    assert Policy(model, varlen_kernel=reference_varlen).attention.is_varlen
    assert Policy(model, varlen_kernel=attend_without_word).attention.is_varlen
    assert model.config._attn_implementation == "holdfast_attend_without_word"
