"""Federated training: equal to local and central training where it must be, bytes counted, kills outlived."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from holdfast.axes.registry import find_method
from holdfast.cli.app import app
from holdfast.core.line_workers import LineWorker, LineWorkers
from holdfast.errors import RunError, UserError
from holdfast.models.loading import load_model
from holdfast.pipeline.federated.aggregation import METHODS, FedAvg, ThresholdAveraging, count_bytes
from holdfast.pipeline.federated.client import Client
from holdfast.pipeline.federated.driver import federate
from holdfast.pipeline.federated.exchange import ClientReply, InlineExchange
from holdfast.pipeline.federated.rounds import draw_clients
from holdfast.pipeline.federated.settings import FederationSettings
from holdfast.pipeline.federated.shards import describe_shards, split_rows
from holdfast.pipeline.federated.workers import WorkerExchange, client_settings
from holdfast.pipeline.train import train
from holdfast.recipe.loader import resolve_any
from holdfast.skills import load_skill
from processes import LineProcess

NAME = "model.layers.0.mlp.up_proj.parametrizations.weight"
DESCENT = {
    "name": "sgd", "learning_rate": 0.1, "schedule": "constant", "warmup": 0, "max_grad_norm": 0,
}  # fmt: skip
SETTINGS = FederationSettings(clients=3, rounds=2, workers=0)


def recipe_of(output: Path, **changes) -> dict:
    return {
        "model": "lab-small", "data": {"train": "lab:sums", "limit": 12}, "optimizer": DESCENT,
        "train": {"max_steps": 1, "batch_tokens": 20_000, "precision": "fp32"},
        "evaluate": {"keep": [], "items": 2, "live_items": 0, "every": 0, "max_tokens": 4}, "output": str(output),
    } | changes  # fmt: skip


def server_weights(folder: Path, number: int) -> dict[str, torch.Tensor]:
    return load_file(folder / "federated" / "rounds" / f"{number:04d}" / "global.safetensors")


def apart(one, two) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def rows_of(skill: str, count: int):
    return load_skill(skill).generate_rows(count, "train", 0)


def test_one_client_and_one_round_are_the_local_run_bit_for_bit(tmp_path) -> None:
    plain = train(recipe_of(tmp_path / "plain")).path
    for method in ("fedavg", "local"):
        settings = FederationSettings(clients=1, rounds=1, method=method, workers=0)
        ours = federate(recipe_of(tmp_path / method), settings)
        one, two = (load_file(path / "model" / "model.safetensors") for path in (plain, ours.path))
        assert all(torch.equal(one[name], two[name]) for name in one), method
        assert ours.report["training"]["steps"] == 1
        assert ours.report["gain"] is not None, "gained and lost is reported as of every run"


def test_a_step_of_all_clients_is_a_step_on_all_rows_together(tmp_path) -> None:
    """With shards of unequal size, each client counting by its trained tokens; the bytes are those of all weights."""
    central = federate(recipe_of(tmp_path / "central"), FederationSettings(clients=1, rounds=1, workers=0)).path
    settings = FederationSettings(clients=3, rounds=1, alpha=0.5, workers=0)
    ours = federate(recipe_of(tmp_path / "ours"), settings).path
    one, two = server_weights(central, 0), server_weights(ours, 0)
    summary = json.loads((ours / "federated.json").read_text(encoding="utf-8"))
    assert len({client["rows"] for client in summary["clients"]}) > 1, "no unequal shards"
    assert apart(one, two) < 1e-6
    assert summary["bytes_up"] == 3 * count_bytes(one)
    assert summary["bytes_down"] == 0, "the first round begins with the base, which every client has"


def test_what_a_tuner_draws_is_alike_for_all_clients(tmp_path) -> None:
    """Their rows come in orders of their own, but the half that moves and the start of an adapter are the same."""
    settings = FederationSettings(clients=2, rounds=2, workers=0)
    base = load_model("lab-small").model
    half = federate(recipe_of(tmp_path / "half", tuner="half"), settings).path
    moving = {name for name, p in find_method("tuners", "half")().apply(base, 0).named_parameters() if p.requires_grad}
    assert server_weights(half, 1).keys() == moving
    still = DESCENT | {"learning_rate": 1e-9}
    lora = federate(recipe_of(tmp_path / "lora", tuner="lora", optimizer=still), settings).path
    adapted = find_method("tuners", "lora")().apply(load_model("lab-small").model, 0)
    start = {name: p.detach() for name, p in adapted.named_parameters() if p.requires_grad}
    assert apart(server_weights(lora, 1), start) < 1e-6


def test_thresholds_alone_travel_and_clients_are_drawn_anew(tmp_path) -> None:
    settings = replace(SETTINGS, method="spafl", sample=2, rounds=3)
    run = federate(recipe_of(tmp_path / "out"), settings)
    summary = json.loads((run.path / "federated.json").read_text(encoding="utf-8"))
    payload = server_weights(run.path, 2)
    assert all(name.endswith(".thresholds") for name in payload)
    each = 4 * sum(len(tensor) for tensor in payload.values())
    assert [entry["bytes_up"] for entry in summary["rounds"]] == [2 * each] * 3
    assert [entry["bytes_down"] for entry in summary["rounds"]] == [0, 2 * each, 2 * each]
    assert [entry["chosen"] for entry in summary["rounds"]] == [draw_clients(settings, 0, n) for n in range(3)]
    assert len({tuple(draw_clients(settings, 0, n)) for n in range(20)}) == 3, "all pairs of three are indexes"
    assert all(client["accuracy"] is not None for client in summary["clients"])
    assert run.report["recipe"]["tuner"]["name"] == "spafl"


class CutExchange(InlineExchange):
    """Stops as a killed run does, after some replies."""

    left = 4

    def run_round(self, number, chosen, payload):
        for reply in super().run_round(number, chosen, payload):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield reply


class ForkedWorkers(LineWorkers):
    """Those that begin with what takes seconds to import."""

    def _start_worker(self, place):
        worker = LineWorker(LineProcess(["-m", self.module], {**os.environ, **self.environment(place)}))
        self._write_line(worker, self.settings)
        return worker


class KillingExchange(WorkerExchange):
    """Kills the first worker as soon as it has its first task, and again in the second round."""

    def __post_init__(self):
        self.pool = ForkedWorkers("holdfast.pipeline.federated.worker", self.settings)

    def _give_task(self, worker, name, number):
        super()._give_task(worker, name, number)
        if name == "001" and not (self.client.root / f"killed-{number}").exists():
            (self.client.root / f"killed-{number}").touch()
            os.kill(worker.process.pid, signal.SIGKILL)


def test_a_killed_server_and_killed_workers_end_with_the_same(tmp_path) -> None:
    def build_client(place: str, method: str) -> Client:
        recipe = resolve_any(recipe_of(tmp_path / place)).recipe
        if method == "spafl":
            recipe = resolve_any(recipe_of(tmp_path / place, tuner="spafl")).recipe
        return Client(tmp_path / place / "federated", recipe, METHODS[method]())

    for method in ("fedavg", "spafl"):
        settings = replace(SETTINGS, method=method)
        calm, stormy = f"{method}-calm", f"{method}-stormy"
        expected = server_weights(federate(recipe_of(tmp_path / calm), settings).path, 1)
        client = build_client(stormy, method)
        with pytest.raises(KeyboardInterrupt):
            federate(recipe_of(tmp_path / stormy), settings, exchange=CutExchange(client))
        assert not (tmp_path / stormy / "report.json").exists()
        exchange = InlineExchange(client)
        if method == "fedavg":  # the rest by processes, of which one is killed
            exchange = KillingExchange(client, 1, client_settings(client, method))
        again = federate(recipe_of(tmp_path / stormy), settings, exchange=exchange).path
        got = server_weights(again, 1)
        assert all(torch.equal(expected[name], got[name]) for name in expected), method
        if method == "fedavg":
            assert (tmp_path / stormy / "federated" / "killed-1").exists()
        with pytest.raises(UserError, match=r"run with other settings \(rounds is 3 here and 2 there\)"):
            federate(recipe_of(tmp_path / stormy), replace(settings, rounds=3))


def test_what_the_server_makes_of_replies_is_its_formula() -> None:
    ones, twos = {"w": torch.ones(2)}, {"w": 2 * torch.ones(2)}
    replies = [ClientReply("000", ones, units=30), ClientReply("001", twos, units=10)]
    assert torch.equal(FedAvg().average_replies(replies)["w"], torch.full((2,), 1.25))
    assert torch.equal(ThresholdAveraging().average_replies(replies)["w"], torch.full((2,), 1.5)), (
        "each client counts alike"
    )

    own = {
        f"{NAME}.original": torch.tensor([[1.0, 2.0], [-3.0, 1.0]]),
        f"{NAME}.0.thresholds": torch.tensor([9.0, 9.0]),
    }
    last, payload = ({f"{NAME}.0.thresholds": torch.tensor(values)} for values in ([0.1, 0.2], [0.3, 0.1]))
    shift = ThresholdAveraging().prepare_weights(own, last, payload)
    assert torch.allclose(shift[f"{NAME}.original"], torch.tensor([[0.9, 1.9], [-3.05, 0.95]]))
    assert torch.equal(shift[f"{NAME}.0.thresholds"], torch.tensor([0.3, 0.1])), "the server's, not its own"
    assert not ThresholdAveraging().does_travel(f"{NAME}.original")
    assert ThresholdAveraging().prepare_weights({}, {}, {}) == {}


def test_rows_are_shared_out_once_and_skewed_where_that_is_asked_for() -> None:
    rows = [*rows_of("sums", 60), *rows_of("strings", 60)]
    even, skewed = (FederationSettings(clients=4, alpha=alpha) for alpha in (0.0, 0.1))
    for settings in (even, skewed):
        shards = split_rows(rows, settings, seed=0)
        assert sorted(index for shard in shards for index in shard) == list(range(120))
        assert all(shards)
        assert shards == split_rows(rows, settings, seed=0)
    assert {len(shard) for shard in split_rows(rows, even, 0)} == {30}
    groups = describe_shards(rows, split_rows(rows, skewed, 0), "skill")
    assert max(max(each.values()) / sum(each.values()) for each in groups) > 0.9
    with pytest.raises(UserError, match="3 rows cannot be shared out to 4 clients"):
        split_rows(rows[:3], even, 0)


def test_what_cannot_be_federated_is_said_in_one_line(tmp_path, monkeypatch) -> None:
    cases = (
        (["--method", "spafl", "tuner=lora"], "--method spafl exchanges thresholds, which tuner lora has none of"),
        (["tuner=spafl"], "tuner spafl keeps weights with their client"),
        (["--method", "fedsgd"], "--method must be one of fedavg, spafl, local, not fedsgd"),
        (["--sample", "11"], "--sample 11 is more than --clients 10"),
        (["--clients", "0"], "--clients must be at least 1, not 0"),
        (
            ["train.keep=best", "evaluate.every=0.5", "evaluate.live_items=2"],
            "train.keep: best and train.patience choose a step of one training",
        ),
    )
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(json.dumps(recipe_of(Path("out"))), encoding="utf-8")
    for words, line in cases:
        done = CliRunner().invoke(app, ["federate", "run.yaml", *words])
        assert done.exit_code == 2, (words, done.output)
        assert line in done.stderr
    assert not Path("out").exists()


def test_a_round_without_a_reply_ends_the_run_and_one_missing_reply_does_not(tmp_path) -> None:
    class LossyExchange(InlineExchange):
        lost: tuple[str, ...] = ()

        def run_round(self, number, chosen, payload):
            for name in chosen:
                yield (
                    ClientReply(name, failure="gone")
                    if name in self.lost
                    else self.client.train_round(name, number, payload)
                )

    recipe = recipe_of(tmp_path / "out")
    client = Client(tmp_path / "out" / "federated", resolve_any(recipe).recipe, FedAvg())
    exchange = LossyExchange(client)
    exchange.lost = ("000", "001", "002")
    with pytest.raises(RunError, match="round 1: no client replied"):
        federate(recipe, SETTINGS, exchange=exchange)
    exchange.lost = ("001",)
    done = federate(recipe, SETTINGS, exchange=exchange)
    summary = json.loads((done.path / "federated.json").read_text(encoding="utf-8"))
    assert [entry["failed"] for entry in summary["rounds"]] == [{"001": "gone"}] * 2
    assert summary["bytes_up"] == 2 * 2 * count_bytes(server_weights(done.path, 1))


def test_the_command_trains_an_adapter_by_rounds_and_says_what_travelled(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(json.dumps(recipe_of(Path("out"))), encoding="utf-8")
    done = CliRunner().invoke(
        app, ["federate", "run.yaml", "--clients", "2", "--rounds", "2", "--workers", "0", "tuner=lora"]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert "fedavg: 2 rounds, " in done.stdout
    weights = server_weights(Path("out"), 1)
    assert all("lora_" in name for name in weights), "adapters alone travel"
    assert (Path("out/model/adapter_model.safetensors")).exists()
    assert (Path("out/report.html")).exists()
