"""Prefix limits: the theorem of Petrov et al. on models with a prefix, and what an adapter changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from holdfast.axes.tuner import Tuner
from holdfast.methods.analyses.prefix_limits import PrefixLimits
from holdfast.methods.tuners.lora import LoRA
from holdfast.methods.tuners.prefix import Prefix
from holdfast.methods.tuners.prompt import Prompt
from holdfast.models.attention_maps import compare_attention
from holdfast.models.policy import Policy
from holdfast.testing.analyses import build_context


def look_at(tuner: Tuner) -> tuple[list[tuple[Any, ...]], str, list[str]]:
    """The lines, the sentence and the titles of the figures for the laboratory model with a tuner's random weights."""
    context, (base, _) = build_context()
    tuned = tuner.apply(copy.deepcopy(base), 0).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    context.open_tuned = lambda: Policy(tuned)
    with torch.no_grad():
        section = PrefixLimits(items=2).measure(context)
    assert base.config._attn_implementation == tuned.get_base_model().config._attn_implementation == "sdpa"
    return list(section.table.rows), section.sentence, [figure.title for figure in section.figures]


@pytest.mark.parametrize("tuner", [Prefix(tokens=1, projection=False), Prompt(tokens=3)])
def test_what_stands_before_leaves_the_first_layers_pattern(tuner: Tuner) -> None:
    lines, sentence, titles = look_at(tuner)
    first = [line for line in lines if line[1] == 1]
    assert {line[0] for line in first} == {"sums", "other sums"}
    for _, _, mass, moved in first:
        assert mass > 0.1
        assert moved < 1e-6
    assert max(line[3] for line in lines if line[1] > 1) > 1e-4  # through the input of later layers
    assert sentence.startswith(f"The {tuner.tokens} virtual tokens take ")
    assert titles == ["Attention to what stands before", "What tokens look at among themselves"]


def test_an_adapter_moves_the_pattern_from_the_first_layer_on() -> None:
    lines, sentence, titles = look_at(LoRA(r=4))
    assert all(line[2] == pytest.approx(0, abs=1e-4) for line in lines)
    assert min(line[3] for line in lines if line[1] == 1) > 1e-3
    assert sentence.startswith("No virtual tokens stand before the sequences; ")
    assert titles == ["What tokens look at among themselves"]


def test_the_comparison_by_hand() -> None:
    base = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    scaled = torch.tensor([[[0.2, 0.8, 0.0], [0.6, 0.2, 0.2]]])
    assert compare_attention(base, scaled) == pytest.approx((0.4, 0.0), abs=1e-7)
    moved = torch.tensor([[[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]])
    assert compare_attention(base, moved) == pytest.approx((0.25, 0.25), abs=1e-7)
