"""Attention by lengths on two processes, with whole copies (DDP) or shards (FSDP2): losses of padded rows on one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spread_by_length
import torch
from material import model

from holdfast.models import attention_choice
from holdfast.models.layer_list import find_layer_list, shorten_on_device
from holdfast.models.policy import Policy
from holdfast.training import setup
from processes import launch
from varlen_reference import reference_varlen

SCRIPT = Path(__file__).with_name("spread_by_length.py")
KINDS = {"ddp": {}, "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true"}}
ATTENTION = {
    "compiled": "varlen (packed)",
    "dpo with lora": "varlen (packed, pairs share their prompt)",
    "soft caps": "eager (padded): gemma2 caps its attention scores",
}


@pytest.fixture(scope="module")
def alone(make_once: Callable[[str, Callable[[Path], object]], Path]) -> dict[str, dict[str, Any]]:
    """What one process comes to in each case, by padded rows."""

    def make(place: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention_choice, "find_kernel", attention_choice.find_kernel)  # the script sets them
            patch.setattr(setup, "CompiledLayers", setup.CompiledLayers)
            said = {case: spread_by_length.run(case, place / case, by_length=False) for case in ATTENTION}
        (place / "said.json").write_text(json.dumps(said))

    return json.loads((make_once("alone-by-length", make) / "said.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_packed_lines_on_two_processes_are_padded_ones_on_one(
    kind: str, alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1"} | KINDS[kind]
    launch([SCRIPT, tmp_path], tmp_path, env)
    said = json.loads((tmp_path / "said.json").read_text())
    for case, attention in ATTENTION.items():
        assert said[case]["attention"] == f"attention: {attention}"
        assert not [line for line in said[case]["said"] if "run as they are" in line], "nothing failed in compiling"
        assert "padded" in alone[case]["attention"]
        assert said[case]["losses"] == pytest.approx(alone[case]["losses"], abs=1e-5), case
        assert said[case]["weights"] == pytest.approx(alone[case]["weights"], rel=1e-5), case


def test_a_model_to_be_sharded_is_tried_with_the_first_layer_of_each_kind() -> None:
    causal = model("qwen2", num_hidden_layers=4, layer_types=["full_attention", "sliding_attention"] * 2,
                   sliding_window=8, use_sliding_window=True)  # fmt: skip
    policy, before = Policy(causal), {name: id(p) for name, p in causal.named_parameters()}
    layers = list(find_layer_list(causal))
    with shorten_on_device(causal, torch.device("cpu")):
        assert list(causal.model.layers) == layers[:2]
        policy.prove_attention(reference_varlen)
        assert policy.reads_lines_by_length
    assert {name: id(p) for name, p in causal.named_parameters()} == before
    assert list(causal.model.layers) == layers
    assert policy.body_weights == sum(p.numel() for p in causal.model.parameters()) - causal.lm_head.weight.numel()
