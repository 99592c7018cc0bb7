"""`holdfast plan`: its arithmetic on numbers worked out by hand, sizes that are published, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.cli.render_plan import format_amount
from holdfast.errors import UserError
from holdfast.models.loading import LAB_DIRECTORY
from holdfast.models.shape import ModelSize, load_shape
from holdfast.pipeline.cluster import cost_model
from holdfast.pipeline.cluster.accelerators import KINDS
from holdfast.pipeline.cluster.assumptions import build_cluster, settle_assumptions
from holdfast.pipeline.cluster.cost_model import Cluster
from holdfast.pipeline.cluster.plan import plan_cluster

SIZE = ModelSize(
    parameters=1000, active=900, trained=100, trained_active=100, experts=0, visited=1.0, layers=2, largest_layer=400,
    around=200, attention_width=8, cache_bytes=64,
)  # fmt: skip
CLUSTER = Cluster(gpus=8, flops=500.0, bandwidth=1000.0, exchange=100.0, room=10_000.0)
LLAMA = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
    "num_hidden_layers": 80, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    "dtype": "bfloat16", "max_position_embeddings": 131072,
}  # fmt: skip
MIXTRAL = LLAMA | {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_hidden_layers": 32, "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip


def write_settings(place: Path, settings: dict[str, Any]) -> str:
    place.mkdir()
    (place / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return str(place)


def recipe(model: str, **more: Any) -> dict[str, Any]:
    evaluate = {"keep": ["lab:strings"], "items": 4, "live_items": 0, "every": 0, "max_tokens": 50}
    return {
        "model": model, "method": "sft", "data": {"train": "lab:sums", "limit": 64}, "evaluate": evaluate,
        "output": "x", **more,
    }  # fmt: skip


def test_operations_of_a_token_by_hand() -> None:
    assert cost_model.count_forward_flops(SIZE, 10) == 2 * 900 + 2 * 2 * 8 * 10
    assert cost_model.count_training_flops(SIZE, 10, False) == 2120 + 1800 + 200 + 640
    assert cost_model.count_training_flops(SIZE, 10, True) == 2120 + 4760
    whole = replace(SIZE, active=1000, trained=1000, trained_active=1000)
    assert cost_model.count_training_flops(whole, 0, False) == 6 * 1000


def test_traffic_by_hand() -> None:
    assert cost_model.count_traffic(SIZE, 4, 4) == (4 * 1000 + 4 * 100) * 3 / 4
    assert cost_model.count_traffic(replace(SIZE, trained=1000), 4, 2) == 3 * 2 * 1000 * 3 / 4
    assert cost_model.count_traffic(SIZE, 1, 4) == 0


def test_a_step_takes_the_longer_of_its_products_and_its_traffic() -> None:
    cost = cost_model.compute_step_cost(SIZE, CLUSTER, 200, 10, 4, 3)
    assert cost.flops == 200 * 4760
    assert cost.compute_seconds == 200 * 4760 / (4 * 500)  # four rows: four of eight GPUs
    assert cost.traffic_seconds == 3 * 4400 * 7 / 8 / 100
    assert (cost.seconds, cost.bound) == (476, "compute")
    slow = cost_model.compute_step_cost(SIZE, replace(CLUSTER, exchange=1.0), 200, 10, 4, 3)
    assert (slow.seconds, slow.bound) == (11_550, "traffic")


def test_answers_by_hand() -> None:
    plan = cost_model.plan_decoding(SIZE, CLUSTER, 128, 10, 20, 1000)
    assert plan is not None
    assert (plan.per_copy, plan.copies, plan.batch) == (1, 8, 4)  # (10,000 - 2,000) / (30 * 64)
    assert plan.step_seconds == max((2000 + 4 * 20 * 64) / 1000, 4 * (1800 + 2 * 2 * 8 * 30) / 500)
    assert plan.bound == "compute"
    assert plan.tokens_per_second == 8 * 4 / plan.step_seconds
    fast = cost_model.plan_decoding(SIZE, replace(CLUSTER, flops=1e9), 3, 10, 20, 1000)
    assert fast is not None
    assert (fast.batch, fast.bound, fast.step_seconds) == (3, "bandwidth", (2000 + 3 * 20 * 64) / 1000)
    wide = cost_model.plan_decoding(SIZE, replace(CLUSTER, room=1000.0), 128, 10, 20, 1000, copies=1)
    assert wide is not None
    assert (wide.per_copy, wide.copies, wide.batch) == (4, 1, 1)
    assert cost_model.plan_decoding(SIZE, replace(CLUSTER, room=400.0), 128, 10, 20, 1000) is None
    few = cost_model.plan_decoding(SIZE, CLUSTER, 128, 10, 20, 9)
    assert few is not None
    assert few.batch == 2


def test_experts_are_read_as_they_are_visited() -> None:
    size = replace(SIZE, experts=800, visited=0.25)
    assert size.read_parameters(1) == 200 + 200
    assert size.read_parameters(2) == 200 + 800 * (1 - 0.75**2)


def test_sizes_are_those_that_are_published(tmp_path: Path) -> None:
    """Llama 3.1 70B: 70,553,706,496 weights, 320 KiB of cache a token; Mixtral 8x7B: 46.7 billion, 12.9 of a token."""
    llama = ModelSize.from_model(load_shape(write_settings(tmp_path / "llama", LLAMA)).model)
    assert (llama.parameters, llama.cache_bytes, llama.layers) == (70_553_706_496, 320 * 1024, 80)
    assert llama.active == 70_553_706_496 - 128_256 * 8192
    assert llama.around == 2 * 128_256 * 8192 + 8192
    mixtral = ModelSize.from_model(load_shape(write_settings(tmp_path / "mixtral", MIXTRAL)).model)
    assert mixtral.parameters == 46_702_792_704
    assert round(mixtral.active) == 12_879_925_248 - 32_000 * 4096
    tied = ModelSize.from_model(load_shape("lab-small").model)
    assert tied.active == tied.parameters


def test_the_plan_of_70_billion_weights(tmp_path: Path) -> None:
    model = write_settings(tmp_path / "llama", LLAMA)
    found = plan_cluster(recipe(model, train={"max_steps": 10, "batch_tokens": 4096}), 64, "h100")
    memory, training = found["memory"], found["training"]
    assert memory["fits"]
    parts = memory["memory_parts"]
    weights = 70_553_706_496
    assert parts["weights"] == pytest.approx(4 * weights / 64 / 2**30)
    assert parts["optimizer states"] == pytest.approx(8 * weights / 64 / 2**30, rel=1e-3)
    layer = (weights - 2 * 128_256 * 8192 - 8192) // 80
    assert parts["gathered weights"] == pytest.approx(2 * (2 * layer + 2 * 128_256 * 8192 + 8192) / 2**30)
    assert training["traffic_seconds"] == pytest.approx(8 * weights * 63 / 64 / (50e9 * 0.8))
    assert (training["bound"], training["micro_batches"]) == ("traffic", 1)
    assert training["hours"] == pytest.approx(10 * training["step_seconds"] / 3600)
    assert found["total"]["gpu_hours"] == pytest.approx(64 * found["total"]["hours"])
    assert found["evaluation"]["gpus_per_copy"] == 4
    assert any("this version loads the whole model in each process" in text for text in found["warnings"])
    assert any("counted by characters" in text for text in found["warnings"])


def test_too_few_gpus_and_changed_assumptions(tmp_path: Path) -> None:
    """16 bytes a weight: 9 billion on two GPUs leave less than a fifth of 80 GiB, on four they leave half of it."""
    model = write_settings(tmp_path / "short", LLAMA | {"num_hidden_layers": 8})
    alone = plan_cluster(recipe(model), 1, "h100", assume=["gradient_bytes=2", "utilisation=0.5"])
    assert (alone["memory"]["fits"], alone["memory"]["fewest_gpus"]) == (False, 4)
    assert any("training does not fit on 1 GPUs" in text and "4 have room" in text for text in alone["warnings"])
    assert alone["training"]["traffic_seconds"] == 0
    assert {one["name"]: (one["value"], one["why"]) for one in alone["assumptions"]}["utilisation"] == (0.5, "given")
    lora = plan_cluster(recipe(model, method="lora"), 2, "h100")
    assert lora["memory"]["fits"]
    assert lora["model"]["trainable"] < lora["model"]["parameters"] / 100


def test_the_words(tmp_path: Path) -> None:
    model = write_settings(tmp_path / "small", json.loads((LAB_DIRECTORY / "lab-small" / "config.json").read_text()))
    (tmp_path / "run.yaml").write_text(json.dumps(recipe(model, method="s3ft")), encoding="utf-8")
    words = ["plan", str(tmp_path / "run.yaml"), "--gpus", "4", "--kind", "L4", "--assume", "answer_share=0.5"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    for text in ("4 l4 in 1 machine\n", "121 TFLOP/s", "answer_share", "given", "memory of a GPU", "GPU hours"):
        assert text in done.stdout
    line = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout.splitlines()[-1])
    assert line["sampling"]["tokens"] == line["sampling"]["answers"] * 256
    assert line["total"]["hours"] == pytest.approx(
        sum(line[x]["hours"] for x in ("sampling", "training", "evaluation"))
    )


def test_amounts() -> None:
    assert [format_amount(*each) for each in ((989e12, "FLOP/s"), (3.35e12, "B/s"), (0.4, ""), (80, "GiB"))] == [
        "989 TFLOP/s", "3.35 TB/s", "0.4", "80 GiB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"gpus": 0}, "--gpus 0: must be 1 or more"),
        ({"nodes": 3}, "--nodes 3: 8 GPUs do not stand in so many machines"),
        ({"kind": "h10"}, "--kind h10: there are a100-40, .* did you mean h100?"),
        ({"assume": ["utilisation=1.5"]}, "utilisation=1.5: must be a number above 0, at most 1"),
        ({"assume": ["flop=1"]}, "flop=1: give NAME=VALUE, of flops, .*; did you mean flops?"),
        ({"assume": ["flops=many"]}, "flops=many: must be a number above 0"),
        ({"assume": ["copies=1.5"]}, "copies=1.5: must be a whole number"),
        ({"recipe": recipe("lab-small", train={"weights": "bf16"})}, "train.weights: shards are fp32"),
        ({"recipe": recipe("lab-small", optimizer="lomo")}, "optimizer LOMO updates inside the backward pass"),
        ({"recipe": recipe("nowhere/at/all")}, "nowhere/at/all: no such folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_cluster(**{"recipe": recipe("lab-small"), "gpus": 8, "kind": "h100", **asked})


def test_odd_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_hidden_layers 1,000,000,000 must be 1 to 1,000"):
        load_shape(write_settings(tmp_path / "deep", LLAMA | {"num_hidden_layers": 10**9}))
    with pytest.raises(UserError, match="config"):
        load_shape(write_settings(tmp_path / "odd", {"model_type": "llama", "hidden_size": "many"}))


def test_every_kind_is_complete() -> None:
    for kind in KINDS.values():
        values = {one.name: one.value for one in settle_assumptions(kind, [])}
        assert all(math.isfinite(value) for value in values.values())
        assert kind.source
        assert build_cluster(8, 1, values).exchange == pytest.approx(0.8 * kind.link)
        assert build_cluster(16, 2, values).exchange == pytest.approx(0.8 * kind.network)
