"""Two processes, with whole copies (DDP, as if on two machines) or shards (FSDP2), end with the weights of one; stopped
ones go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import spread
import torch
from safetensors.torch import load_file

from processes import launch

SCRIPT = Path(__file__).with_name("spread.py")
KINDS = {"ddp": {}, "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true"}}


@pytest.fixture(scope="module", params=KINDS)
def ran(request, make_once):
    """`(kind, directory, what was said)` of one launch."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | KINDS[request.param]
    machines = 2 if request.param == "ddp" else 1
    directory = make_once(request.param, lambda directory: launch([SCRIPT, directory], directory, env, machines))
    return request.param, directory, json.loads((directory / "said.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("case", spread.CASES)
def test_two_processes_end_where_one_does(ran, tmp_path, case):
    kind, directory, said = ran
    assert said[case]["world"] == 2
    assert said[case]["sharded"] == (kind == "fsdp2")
    alone = spread.trainer(case, tmp_path).fit()
    spread_out = load_file(directory / case / "whole.safetensors")
    assert said[case]["loss"] == pytest.approx(alone.loss, abs=1e-5)
    assert said[case]["tokens"] == alone.tokens
    here = dict(alone.tuner.merge(alone.model).named_parameters())
    assert here.keys() == spread_out.keys()
    for name, p in here.items():
        assert torch.allclose(p, spread_out[name], atol=1e-5), (name, float((p - spread_out[name]).abs().max()))


@pytest.mark.slow
def test_all_processes_keep_and_stop_at_the_same_step(ran, tmp_path):
    _, directory, said = ran
    alone = spread.choosing(tmp_path).fit()
    assert said["chosen"] == {"steps": alone.steps, "kept_step": alone.kept_step}
    assert (alone.kept_step, alone.stopped_early) == (2, True)
    kept = load_file(directory / "chosen.safetensors")
    for name, p in alone.tuner.merge(alone.model).named_parameters():
        assert torch.allclose(p, kept[name], atol=1e-5), name


@pytest.mark.slow
def test_stopped_on_two_processes_it_goes_on_bit_for_bit(ran):
    _, directory, said = ran
    assert "all saved" in said["full"]["interrupted"][0]
    whole, parts = (load_file(directory / "full" / f"{name}.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_evaluation_sees_a_whole_model_in_eval_mode(ran):
    _, _, said = ran
    assert len(said["full"]["looked"]) == 3
    assert all(training is False for _, training, _ in said["full"]["looked"])
