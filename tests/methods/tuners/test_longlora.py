"""LongLoRA: no token sees a later one, one group is whole attention, positions divide, and what is stored loads."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from holdfast.errors import UserError
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.tuners.longlora import LongLoRA
from holdfast.models.loading import build_skeleton, tuned_context_length
from holdfast.models.positions import interpolate_positions
from holdfast.models.shifted_attention import attend_segments, cut_segments, register_shifted_attention
from holdfast.testing.examples import example_recipe, example_table, tiny_model
from holdfast.training.trainer import Trainer

N, G = 16, 4
IDS = torch.arange(3, 3 + N)[None]


def logits(model, ids=IDS, **inputs):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **inputs).logits


def test_segments_are_the_papers_and_rows_of_a_line_have_their_own():
    positions = torch.cat([torch.arange(10), torch.arange(3), torch.arange(5)])[None]
    sizes = {0: [4, 4, 2, 3, 4, 1], 2: [2, 4, 4, 2, 1, 2, 3]}
    for offset, lengths in sizes.items():
        index, segment, inside = cut_segments(positions, G, offset)
        assert segment.bincount().tolist() == lengths
        assert torch.equal(index[segment, inside], torch.arange(18))
    line = torch.arange(N)[None]
    assert cut_segments(line, G, 2)[1].bincount().tolist() == [2, 4, 4, 4, 2]


@pytest.mark.parametrize("offset", [0, G // 2], ids=["in place", "shifted"])
def test_a_later_token_never_changes_an_earlier_output_in_either_half_of_the_heads(offset):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, N, 8) for _ in range(3))
    segments = cut_segments(torch.arange(N)[None], G, offset)
    start = attend_segments(q, k, v, segments)  # [1, N, 2, 8]
    number = (torch.arange(N) + offset) // G
    for place in range(N):
        k2, v2 = k.clone(), v.clone()
        k2[:, :, place], v2[:, :, place] = 5.0, -5.0
        changed = (attend_segments(q, k2, v2, segments) != start).flatten(2).any(-1)[0]
        assert not changed[:place].any(), "an earlier token saw it"
        assert torch.equal(changed, (number == number[place]) & (torch.arange(N) >= place)), "its segment alone"


def test_segments_give_what_a_mask_of_them_gives():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, N, 8) for _ in range(3))
    places = torch.arange(N)
    for window, group, offset in ((None, G, 0), (None, G, 2), (3, G, 0), (3, G, 2), (None, N, 0)):
        number = (places + offset) // group
        mask = (number[:, None] == number) & (places[:, None] >= places)
        if window:
            mask &= places[:, None] - places < window
        whole = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3).transpose(1, 2)
        segments = cut_segments(places[None].expand(2, -1), group, offset)
        torch.testing.assert_close(attend_segments(q, k, v, segments, scaling=0.3, window=window), whole)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "phi3", "mistral", "gpt2"])
def test_a_whole_model_leaks_nothing_and_one_group_is_whole_attention(kind):
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if kind == "gpt2" else {}
    model = tiny_model(kind, **dropout).train()
    whole = logits(model)
    model.set_attn_implementation(register_shifted_attention(N, shift=False))
    torch.testing.assert_close(logits(model), whole, atol=1e-5, rtol=1e-5)
    model.set_attn_implementation(register_shifted_attention(G))
    start = logits(model)
    assert not torch.allclose(start, whole, atol=1e-3)
    for place in (2, 5, 9, 15):
        other = IDS.clone()
        other[0, place] = 90
        assert torch.equal(logits(model, other)[:, :place], start[:, :place])
    packed, positions = torch.cat([IDS, IDS.flip(1)], 1), torch.arange(N).repeat(2)[None]
    both = logits(model, packed, position_ids=positions)
    torch.testing.assert_close(both[:, :N], start, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:, N:], logits(model, IDS.flip(1)), atol=1e-5, rtol=1e-5)
    model.eval()
    torch.testing.assert_close(logits(model), whole, atol=1e-6, rtol=1e-6)


def test_positions_divided_by_a_factor_are_those_of_a_model_that_stands_at_them():
    base, longer = tiny_model(max_position_embeddings=32), tiny_model(max_position_embeddings=32)
    interpolate_positions(longer, 4)
    assert longer.config.max_position_embeddings == 128
    states = torch.zeros(1, N, 32)
    quarter = torch.arange(N)[None] / 4
    angles = base.model.rotary_emb(states, quarter), longer.model.rotary_emb(states, quarter * 4)
    for one, other in zip(*angles, strict=True):
        torch.testing.assert_close(one, other)
    same = LongLoRA(length=32, factor=1)
    tuned = same.apply(tiny_model(max_position_embeddings=32), 0)
    assert torch.equal(logits(tuned.eval()), logits(base.eval()))
    assert tuned_context_length(base.config, LongLoRA(length=100)) == 128
    assert tuned_context_length(base.config, LongLoRA(length=20)) == 32


def test_what_trains_is_lora_on_attention_and_all_embeddings_and_norms():
    model = LongLoRA().apply(tiny_model("qwen2"), 0)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    for name in names:
        low_rank, copied = "self_attn" in name and "lora_" in name, "modules_to_save" in name
        assert low_rank or (copied and ("embed" in name or "norm" in name))
    assert sum("lora_A" in name for name in names) == 2 * 4
    assert sum("norm" in name for name in names) == 2 * 2 + 1
    bare = LongLoRA(embeddings=False, norms=False).apply(tiny_model("qwen2"), 0)
    assert all("lora_" in name for name, p in bare.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("tied", [False, True])
def test_beyond_the_context_it_trains_saves_loads_merges_and_gives_the_base_back(tmp_path, tied):
    sizes = {"max_position_embeddings": 8, "tie_word_embeddings": tied}
    base = tiny_model(**sizes).eval()
    tuner = LongLoRA(length=32)
    recipe = example_recipe(8, tuner=tuner)
    model = Trainer(recipe, tiny_model(**sizes), example_table(SFT()), tmp_path / "run", pad_id=0).fit().model
    tuned = logits(model)
    assert model.config.rope_parameters["rope_type"] == "linear"
    assert not torch.allclose(tuned, logits(base), atol=1e-2)
    with tuner.base_context(model):
        assert torch.equal(logits(model), logits(base))
    assert torch.equal(logits(model), tuned), "and it is back"
    (tmp_path / "saved").mkdir()
    saved = tuner.save(model, tmp_path / "saved", torch.float32)
    assert "'factor': 4.0" in saved.load
    assert "max_position_embeddings = " in saved.load
    again = tuner.load(tmp_path / "saved", tiny_model(**sizes)).eval()
    torch.testing.assert_close(logits(again), tuned, atol=1e-6, rtol=1e-6)
    plain = tuner.merge(model)
    plain.save_pretrained(tmp_path / "plain")
    elsewhere = type(base).from_pretrained(tmp_path / "plain").eval()
    torch.testing.assert_close(logits(elsewhere), tuned, atol=1e-4, rtol=1e-4)
    assert elsewhere.config.max_position_embeddings == 32


SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
WRONG = [
    (LongLoRA(), "gemma2", {}, "gemma2 caps its attention scores; choose lora"),
    (LongLoRA(), "llama", {"num_attention_heads": 1, "num_key_value_heads": 1}, "halves the heads .* LlamaFor.* has 1"),
    (LongLoRA(length=4096), "gpt2", {}, r"tuner\.factor: GPT2LMHeadModel has no rotary positions .* context of 128"),
    (LongLoRA(factor=2), "llama", {"rope_parameters": SCALED}, r"scaled already \(linear\); set tuner\.factor: 1"),
]


def test_what_it_cannot_train_is_refused_by_name():
    for tuner, kind, sizes, said in WRONG:
        with pytest.raises(UserError, match=said):
            tuner.check(build_skeleton(tiny_model(kind, **sizes).config))
