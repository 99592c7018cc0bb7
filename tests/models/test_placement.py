"""One place chooses the device: every verb computes there alone; what is not there is refused in one line."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import card
from holdfast.axes.registry import find_method
from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.models import placement
from holdfast.models.loading import load_model
from holdfast.models.placement import (
    choose_device,
    give_back_heap,
    peak_gib,
    reset_peak,
    resident_gib,
    weights_dtype,
)
from holdfast.models.saving import cast_as_reloaded, copy_as_reloaded
from holdfast.pipeline.run_dir import recipe_key
from holdfast.recipe.schema import Recipe
from holdfast.training.distributed import Machine

RECIPE = {
    "model": "lab-small",
    "data": {"train": "lab:sums", "limit": 8},
    "sampling": {"max_tokens": 3},
    "train": {"max_steps": 2, "batch_tokens": 256, "max_length": 128},
    "evaluate": {"keep": ["lab:strings"], "items": 2, "live_items": 1, "every": 0.5, "max_tokens": 3},
    "device": card.NAME,
}


@pytest.fixture
def on_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The card is there, and baselines are measured anew."""
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with card.card() as counter:
        yield counter


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*arguments, "-v"])
    assert done.exit_code == code, done.output
    return done.output


def write(**changes: object) -> str:
    Path("run.yaml").write_text(yaml.safe_dump(RECIPE | {"output": "out"} | changes), encoding="utf-8")
    return "run.yaml"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "sft"},
        {"method": "s3ft+lora", "inference": {"name": "dial", "point": 0.5}},
        {"method": "dpo", "tuner": "lora"},
        {
            "method": "rft",
            "curate": {"k": 2},
            "tuner": "half",
            "sampling": {"max_tokens": 3, "temperature": 0.8, "top_p": 0.9},
        },
    ],
    ids=lambda changes: changes["method"],
)
def test_a_run_computes_on_its_device_alone(on_card: card.Card, changes: dict[str, object]) -> None:
    recipe = write(**changes)
    run("check", recipe)
    run("train", recipe)
    assert json.loads(Path("out/env.json").read_text())["place"] == str(card.CARD)
    run("eval", "out", "--against", "lab-small", "--items", "1", "--max-tokens", "2", "--device", card.NAME)
    run("export", "out", "exported", "--dial", "0.5", "--device", card.NAME)
    run("chat", "exported", "--once", "--device", card.NAME)
    assert on_card.counts["cpu product"] == 0
    assert on_card.counts["card product"] > 1000


def test_curation_and_comparison_compute_on_their_device(on_card: card.Card) -> None:
    run("curate", write(method="ssr"), "--out", "rows.jsonl")
    run("compare", write(), "-m", "sft,s3ft", "--out", "both")
    assert on_card.counts["cpu product"] == 0
    assert on_card.counts["card product"] > 1000


def test_what_is_asked_for_goes_before_the_variable_and_that_before_what_is_found(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOLDFAST_DEVICE", card.NAME)
    card.register()
    assert choose_device() == card.CARD
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.delenv("HOLDFAST_DEVICE")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert found is not None
    assert choose_device().type == found.type


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maia:1", "device: maia:1 is not there; here"),
        ("hpu", "device: hpu is not a device; here"),
        ("GPU 0", "run.yaml:4: device must be auto, cpu, cuda, cuda:1, mps, xpu or the like, not 'GPU 0'"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(monkeypatch, tmp_path, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    card.register()
    write(device=name)
    commands = [["check", "run.yaml"], ["train", "run.yaml"], ["curate", "run.yaml"]]
    if name[0].islower():
        commands += [["eval", "lab-small", "--device", name], ["chat", "lab-small", "--device", name]]
    for command in commands:
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2, command
        assert message in done.stderr.replace("\n", " ")
        assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml"]


def test_every_process_has_its_own_device(monkeypatch) -> None:
    card.register()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert choose_device(card.NAME) == card.CARD
    with pytest.raises(
        UserError, match="device: maia:0 is one device, and there are several processes; set it to maia"
    ):
        choose_device(str(card.CARD))
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="maia:1 is not there"):
        choose_device(card.NAME)
    assert choose_device("cpu") == torch.device("cpu")


def test_a_run_is_the_same_run_on_any_device() -> None:
    keys = set()
    for device in ("auto", "cpu", "cuda:1"):
        keys.add(recipe_key(Recipe(**RECIPE | {"device": device})))
        keys.add(recipe_key(Recipe(**RECIPE | {"device": device, "stages": ["sft"]})))
    assert len(keys) == 2


def test_weights_are_read_in_their_own_type_where_the_device_is_good_at_it(monkeypatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    own = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    assert [weights_dtype(kind, cpu) for kind in own] == [torch.float32] * 4
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert [weights_dtype(kind, cuda) for kind in own] == [*own[:3], torch.float32]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert weights_dtype(torch.bfloat16, cuda) == torch.float32
    loaded = load_model("lab-small", device="cpu")
    assert (loaded.dtype, loaded.model.dtype, loaded.device) == (torch.bfloat16, torch.float32, cpu)


@pytest.mark.parametrize("tuner", ["full", "lora", "half"])
def test_a_frozen_base_gets_no_master_weights(tuner: str) -> None:
    cpu = torch.device("cpu")
    loaded = load_model("lab-small", torch.bfloat16, device=cpu)
    untouched = {name: p.clone() for name, p in loaded.model.named_parameters()}
    model = Machine("bf16", cpu).place_model(find_method("tuners", tuner)().apply(loaded.model, 0), in_backward=False)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == {"full": set(), "lora": {torch.bfloat16}, "half": {torch.float32}}[tuner]
    # What is measured is what is saved: the copy and, in the end, the model itself are in the files' type again.
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(1e-3)
    copied = copy_as_reloaded(model, torch.bfloat16, torch.bfloat16)
    for name, p in cast_as_reloaded(model, torch.bfloat16, torch.bfloat16).named_parameters():
        assert p.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
        assert torch.equal(p, copied.get_parameter(name))
        if not p.requires_grad:
            assert torch.equal(p, untouched[name.removeprefix("base_model.model.").replace(".base_layer", "")])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of a process cannot begin anew")
def test_the_peak_of_a_run_is_not_that_of_the_run_before() -> None:
    cpu = torch.device("cpu")
    before = peak_gib(cpu)
    large = torch.ones(2**28 // 4)  # a quarter of a GiB
    assert peak_gib(cpu) > before or before > 1
    del large
    high = peak_gib(cpu)
    reset_peak(cpu)
    assert peak_gib(cpu) < high - 0.2


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's allocator")
def test_what_an_earlier_run_held_is_given_back(monkeypatch) -> None:
    monkeypatch.setattr(placement, "KEPT_HEAP_GIB", 0.0)
    freed = torch.empty(7 * 2**20)  # 28 MiB, freed, are from now on the limit below which tensors lie in glibc's heap
    del freed
    blocks = [torch.ones(2**20) for _ in range(128)]  # 4 MiB each
    lasting = blocks[63::64]
    before = resident_gib()
    del blocks
    give_back_heap()
    assert resident_gib() < before - 0.3
    assert all(float(block[-1]) == 1.0 for block in lasting)
