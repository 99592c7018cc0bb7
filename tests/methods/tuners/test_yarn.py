"""YaRN and position interpolation: the papers' angles by loops, transformers' own, and models with longer rows."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from holdfast.errors import UserError
from holdfast.methods.tuners.longlora import LongLoRA
from holdfast.methods.tuners.yarn import YaRN
from holdfast.models.loading import build_skeleton, tuned_context_length
from holdfast.models.positions import restore_positions
from holdfast.testing.examples import tiny_model

L, S, BASE = 2048, 8, 10_000.0
SIZES = {"max_position_embeddings": L, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
D = 64


def yarn_angles(beta_fast: float = 32.0, beta_slow: float = 1.0) -> list[float]:
    """theta' of every pair, as the authors' code computes it, one by one."""
    low, high = (D * math.log(L / (beta * 2 * math.pi)) / (2 * math.log(BASE)) for beta in (beta_fast, beta_slow))
    low, high = max(math.floor(low), 0), min(math.ceil(high), D - 1)
    angles = []
    for d in range(D // 2):
        theta, gamma = BASE ** (-2 * d / D), 1 - min(max((d - low) / (high - low), 0.0), 1.0)
        angles.append((1 - gamma) * theta / S + gamma * theta)
    return angles


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_angles_are_the_papers_and_transformers_own(kind):
    base = tiny_model(kind, **SIZES)
    theta = base.model.rotary_emb.inv_freq
    for tuner, angles, scale in (
        (YaRN(length=L * S), yarn_angles(), 0.1 * math.log(S) + 1),
        (YaRN(factor=S, beta_fast=16, beta_slow=2), yarn_angles(16, 2), 0.1 * math.log(S) + 1),
        (YaRN(length=L * S, positions="linear"), [float(t) / S for t in theta], 1.0),
    ):
        model = tuner.apply(tiny_model(kind, **SIZES), 0)
        rotary, config = model.model.rotary_emb, model.config
        torch.testing.assert_close(rotary.inv_freq, torch.tensor(angles), rtol=1e-5, atol=0)
        theirs, theirs_scale = ROPE_INIT_FUNCTIONS[tuner.positions](config, torch.device("cpu"))
        assert torch.equal(rotary.inv_freq, theirs)
        assert rotary.attention_scaling == theirs_scale == pytest.approx(scale)
        assert config.max_position_embeddings == L * S
        with restore_positions(model):
            assert torch.equal(model.model.rotary_emb.inv_freq, theta)
        assert torch.equal(model.model.rotary_emb.inv_freq, theirs), "and they are back"
    turns = [L * float(t) / (2 * math.pi) for t in theta]
    kept = [abs(a / float(t) - 1) < 1e-5 for a, t in zip(yarn_angles(), theta, strict=True)]
    divided = [abs(a * S / float(t) - 1) < 1e-5 for a, t in zip(yarn_angles(), theta, strict=True)]
    assert all(keep for keep, turn in zip(kept, turns, strict=True) if turn > 32 * 1.4), "fast pairs stay"
    assert all(cut for cut, turn in zip(divided, turns, strict=True) if turn < 1 / 1.4), "slow ones are divided"


def test_what_is_saved_reads_longer_rows_anywhere(tmp_path):
    base = tiny_model(max_position_embeddings=16)
    assert tuned_context_length(base.config, YaRN(length=60)) == 64
    ids = torch.arange(3, 63)[None]
    model = YaRN(length=60).apply(base, 0).eval()
    model.save_pretrained(tmp_path / "plain")
    again = type(base).from_pretrained(tmp_path / "plain").eval()
    assert again.config.rope_parameters == model.config.rope_parameters
    assert model.config.rope_parameters["original_max_position_embeddings"] == 16
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    same = YaRN(length=16).apply(tiny_model(max_position_embeddings=16), 0)
    assert same.config.rope_parameters["rope_type"] == "default", "what fits stays as it is"
    adapter = LongLoRA(length=64, positions="yarn").apply(tiny_model(max_position_embeddings=16), 0)
    assert torch.equal(adapter.get_base_model().model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_a_model_that_came_with_scaled_positions_keeps_them_as_its_own():
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    base = tiny_model(rope_parameters=rope)
    ids = torch.arange(3, 30)[None]
    tuner = LongLoRA(factor=1)
    with torch.no_grad():
        before = base.eval()(input_ids=ids).logits
        model = tuner.apply(base, 0).eval()
        with tuner.base_context(model):
            assert torch.equal(model(input_ids=ids).logits, before)


def test_what_cannot_be_longer_is_refused_by_name():
    for kind, sizes, said in (
        ("gpt2", {}, r"tuner\.factor: GPT2LMHeadModel has no rotary positions"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "scaled already"),
    ):
        with pytest.raises(UserError, match=said):
            YaRN(factor=2).check(build_skeleton(tiny_model(kind, **sizes).config))
    with pytest.raises(ValueError, match=r"beta_slow: must be below beta_fast \(32\), not 40"):
        YaRN(beta_slow=40)
    with pytest.raises(ValueError, match="beta_fast and beta_slow are of positions: yarn"):
        YaRN(positions="linear", beta_fast=16)
