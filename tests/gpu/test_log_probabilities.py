"""Log-probabilities and gradients are those of plain transformers, with and without LoRA, in every layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.methods.tuners.lora import LoRA
from holdfast.models.policy import Policy
from holdfast.pipeline.compiled_passes import compile_passes, describe_arithmetic
from holdfast.training.determinism import deterministic_algorithms

VOCABULARY = 96
LLAMA = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
WINDOWS = LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
KINDS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen3": LLAMA | {"head_dim": 8},
    "gemma2": WINDOWS | {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 20.0},
    "gemma3_text": WINDOWS,
    "gpt2": {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "phi": LLAMA | {"partial_rotary_factor": 0.5, "num_key_value_heads": 4},
    "phi3": LLAMA,
}  # fmt: skip
"""Rotary and grouped heads; norms of queries and keys; soft caps and windows; windows by layer; learned positions;
rotary in part with biases; joined projections."""

FP32 = {"atol": 1e-4, "rtol": 0.0}
"""In nats. The sums of a layer are taken in another order by kernels of another shape; on a CPU a tenth of it."""
BF16_MEAN, BF16_MOST = 0.03, 0.2
"""In nats, over the labels of some rows, whose log-probabilities have a standard deviation of 1 here: weights and
activations have 8 bits. On a CPU it is up to 0.011 and 0.06; a row that saw another would be off by about 1."""

PLACES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


def build_model(kind: str, device: torch.device, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A seeded model with wide weights, drawn on the CPU."""
    extra = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, eos_token_id=1, **(KINDS[kind] | extra))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.to(device, dtype).eval()


def add_adapter(model: PreTrainedModel) -> Any:
    """The model with LoRA matrices that are not nothing."""
    adapted = LoRA(r=4, alpha=8, dropout=0.0).apply(model, 0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape))
    return adapted.eval()


def sample_rows(count: int = 5) -> list[EncodedSequence]:
    """Random rows of 5 to 40 tokens, so that some are longer than a window."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 41, count)
    ids = [rng.integers(3, VOCABULARY, length).astype(np.int32) for length in lengths]
    return [EncodedSequence(one, np.arange(len(one)) >= 3, row) for row, one in enumerate(ids)]


def plain_logps(model: Any, rows: list[EncodedSequence]) -> torch.Tensor:
    """Label log-probabilities [N] from the whole logits of each row alone: the definition."""
    out = []
    for row in rows:
        ids = torch.tensor(row.ids).long()[None].to(model.device)
        every = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)  # [n, V]
        places = torch.tensor(np.flatnonzero(row.label_mask)).to(model.device)
        out.append(every[places - 1, ids[0, places]])
    return torch.cat(out)


def layout_logps(policy: Policy, rows: list[EncodedSequence], layout: Any) -> torch.Tensor:
    """Label log-probabilities [N] of rows in one batch."""
    batch = collate_sequences(rows, layout, 0)
    assert batch is not None
    return policy.token_logps(batch.to(policy.causal.device))


def take_gradients(model: Any) -> dict[str, torch.Tensor]:
    """The gradients of what trains, by name; there are none afterwards."""
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    model.zero_grad()
    return gradients


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("tuner", ["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_and_gradients_are_those_of_transformers(device: torch.device, kind: str, tuner: str) -> None:
    model: Any = build_model(kind, device)
    model = add_adapter(model) if tuner == "lora" else model
    rows, policy = sample_rows(), Policy(model)
    rates = torch.linspace(-1, 2, sum(int(row.label_mask.sum()) for row in rows)).to(device)
    wanted = plain_logps(model, rows)
    (wanted * rates).sum().backward()
    wanted_gradients = take_gradients(model)
    assert wanted_gradients
    assert policy.isolates_packed_rows
    for layout in ("padded", "packed"):
        with deterministic_algorithms(device.type != "cpu"):
            got = layout_logps(policy, rows, layout)
            torch.testing.assert_close(got, wanted, **FP32)
            (got * rates).sum().backward()
        gradients = take_gradients(model)
        assert gradients.keys() == wanted_gradients.keys()
        whole = torch.stack([g.norm() for g in wanted_gradients.values()]).norm()
        apart = torch.stack([torch.dist(gradients[n], g) for n, g in wanted_gradients.items()]).norm()
        assert apart <= 1e-4 * whole, layout


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_padded_and_single_rows_agree_in_bf16(device: torch.device, kind: str) -> None:
    model = build_model(kind, device, torch.bfloat16)
    rows, policy = sample_rows(12), Policy(model)
    with torch.no_grad():
        single = plain_logps(model, rows)
        ways = {layout: layout_logps(policy, rows, layout) for layout in ("padded", "packed")}
        ways["one by one"] = torch.cat([layout_logps(policy, [row], "padded") for row in rows])
    assert single.std() > 1
    for name, logps in ways.items():
        apart = (logps - single).abs()
        assert apart.mean() <= BF16_MEAN, (name, float(apart.mean()))
        assert apart.max() <= BF16_MOST, (name, float(apart.max()))


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["gpu"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_measuring_through_compiled_layers_gives_the_same(device: torch.device, kind: str) -> None:
    """By default on a card, as `evaluate` and curators do it."""
    model, rows, lines = build_model(kind, device, torch.bfloat16), sample_rows(12), list[str]()
    with torch.no_grad():
        single = plain_logps(model, rows)
        policy = compile_passes(Policy(model), "auto", lines.append)
        apart = (layout_logps(policy, rows, policy.batch_layout) - single).abs()
    assert lines == []
    assert describe_arithmetic(policy)["compiled"] is True
    assert (apart.mean() <= BF16_MEAN, apart.max() <= BF16_MOST) == (True, True), (apart.mean(), apart.max())
