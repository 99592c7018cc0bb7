"""Checkpoints: complete or absent, hashed, pruned, refused when they belong to another run."""

from __future__ import annotations

import json
import resource

import pytest
import torch

from holdfast.errors import RunError, UserError
from holdfast.training import checkpoint
from holdfast.training.checkpoint import Checkpoint

MADE_BY = {"model": "tiny", "optimizer.learning_rate": 1e-3, "optimizer.betas": (0.9, 0.999)}


def example(step: int, size: int = 8) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    weights = {
        "a.weight": torch.randn(size, size, generator=generator),
        "a.bias": torch.randn(size, generator=generator),
    }
    tensors = {"model": weights, "optimizer": {"a.bias.step": torch.tensor(3.0)}, "rng": {"cpu": torch.get_rng_state()}}
    return Checkpoint(step, tensors, MADE_BY, {"totals": {"tokens": 7}})


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    saved = example(4)
    path = checkpoint.save_checkpoint(tmp_path / "checkpoints", saved, keep=1)
    loaded = checkpoint.load_checkpoint(path, MADE_BY)
    assert path.name == "step-000004"
    assert loaded.step == 4
    assert loaded.state == {"totals": {"tokens": 7}}
    for group, tensors in saved.tensors.items():
        assert tensors.keys() == loaded.tensors[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, loaded.tensors[group][name])
            assert tensor.dtype == loaded.tensors[group][name].dtype


def test_only_safetensors_and_json_are_written(tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, example(1), keep=1)
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}


def test_the_newest_are_kept(tmp_path):
    for step in (2, 10, 4, 12):
        checkpoint.save_checkpoint(tmp_path, example(step), keep=2)
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == ["step-000010", "step-000012"]
    assert checkpoint.find_newest(tmp_path).name == "step-000012"


def test_half_written_ones_do_not_count_and_are_swept(tmp_path):
    checkpoint.save_checkpoint(tmp_path, example(2), keep=3)
    (tmp_path / "step-000009.partial").mkdir()
    (tmp_path / "step-000009.partial" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "step-000008").mkdir()  # no state.json: not ours, or not whole
    assert checkpoint.find_newest(tmp_path).name == "step-000002"
    checkpoint.save_checkpoint(tmp_path, example(8), keep=3)
    assert checkpoint.load_checkpoint(tmp_path / "step-000008", MADE_BY).step == 8
    checkpoint.remove_partial(tmp_path)
    assert not (tmp_path / "step-000009.partial").exists()


def test_no_directory_no_checkpoint(tmp_path):
    assert checkpoint.find_newest(tmp_path / "none") is None


def test_another_recipe_is_refused_and_the_difference_named(tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, example(2), keep=1)
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.001 there, 0\.01 here"):
        checkpoint.load_checkpoint(path, MADE_BY | {"optimizer.learning_rate": 1e-2})


def test_a_damaged_file_is_named(tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, example(2), keep=1)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"model\.safetensors: missing or damaged"):
        checkpoint.load_checkpoint(path, MADE_BY)


def test_every_file_is_hashed(tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, example(2), keep=1)
    state = json.loads((path / "state.json").read_text())
    assert set(state["files"]) == {p.name for p in path.glob("*.safetensors")}


def test_a_full_disk_is_one_clear_line_and_the_old_checkpoint_stays(tmp_path):
    checkpoint.save_checkpoint(tmp_path, example(2), keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            RunError, match=r"step-000004: cannot be written: .*earlier checkpoints are intact"
        ) as caught:
            checkpoint.save_checkpoint(tmp_path, example(4, size=64), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert checkpoint.load_checkpoint(checkpoint.find_newest(tmp_path), MADE_BY).step == 2


def test_an_output_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the directory should be")
    with pytest.raises(RunError, match=r"cannot be written: not a directory"):
        checkpoint.save_checkpoint(tmp_path / "checkpoints", example(1), keep=1)


def test_room_is_looked_at_before_the_first_step(tmp_path):
    checkpoint.check_room(tmp_path / "new", 1000)
    with pytest.raises(RunError, match=r"a checkpoint needs .* GiB and the disk has"):
        checkpoint.check_room(tmp_path / "new", 2**60)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/checkpoints: cannot be written: not a directory; choose another output"):
        checkpoint.check_room(tmp_path / "file" / "checkpoints", 1)
