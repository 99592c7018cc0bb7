"""`federate`: rows shared out to clients, rounds of training, and what was gained and lost as for every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.registry import name_of
from holdfast.axes.tuner import Tuner
from holdfast.core.events import StepFinished
from holdfast.core.files import fresh_file
from holdfast.core.progress import Progress
from holdfast.errors import UserError
from holdfast.evaluation.task import JUDGED
from holdfast.pipeline.federated.aggregation import METHODS, Aggregation
from holdfast.pipeline.federated.client import ROWS, TEMPLATE, Client
from holdfast.pipeline.federated.exchange import ClientExchange, InlineExchange, client_folder, name_clients
from holdfast.pipeline.federated.flower import FlowerExchange, run_simulation
from holdfast.pipeline.federated.rounds import Round, run_rounds
from holdfast.pipeline.federated.settings import FederationSettings
from holdfast.pipeline.federated.shards import describe_shards, group_rows, split_rows
from holdfast.pipeline.federated.workers import WorkerExchange, client_settings
from holdfast.pipeline.phases import RunContext, curate_rows, encode_rows, measure_tasks, rows_for_objective
from holdfast.pipeline.results import RunResult, save_model, write_results
from holdfast.pipeline.run import Ranks, apply_inference, prepare_run
from holdfast.pipeline.run_record import RunRecord
from holdfast.pipeline.subject import build_subject
from holdfast.recipe.loader import ResolvedRecipe, resolve_any
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.rows import Rows
    from holdfast.evaluation.task import ItemResult
    from holdfast.models.loading import Model
    from holdfast.training.callbacks import TrainResult
    from holdfast.training.plan import TrainingPlan

    Items = dict[str, list[ItemResult]]

FOLDER, SUMMARY = "federated", "federated.json"


@dataclass(slots=True)
class Federation:
    """What a federated run shares.

    Args:
        work: Of an ordinary run.
        settings: Of the federation.
        rows: Curated, of all clients.
        shards: The indexes of each client's rows.
        client: Trains the clients.
    """

    work: RunContext
    settings: FederationSettings
    rows: Rows
    shards: list[list[int]]
    client: Client

    @property
    def aggregation(self) -> Aggregation:
        return self.client.aggregation

    @property
    def names(self) -> list[str]:
        return name_clients(self.settings.clients)


def federate(
    recipe: ResolvedRecipe | Recipe | dict[str, Any] | str | Path,
    settings: FederationSettings,
    *,
    ui: Progress | None = None,
    restart: bool = False,
    exchange: ClientExchange | None = None,
) -> RunResult:
    """Train by rounds over clients that keep their rows. Killed and repeated, it goes on where it was.

    Args:
        recipe: Of every client; `train.max_steps` or `train.epochs` are of one round.
        exchange: How clients are reached; default: as `settings.workers` says.
    Raises:
        UserError: If the recipe cannot be trained so, or the output holds another run.
    """
    resolved_recipe = resolve_any(recipe)
    resolved_recipe = _choose_tuner(resolved_recipe, settings)
    check_recipe(plain_recipe := resolved_recipe.recipe, settings)
    with RunRecord(ui := ui or Progress.create_silent()) as record:
        work = prepare_run(resolved_recipe, ui, Ranks.single_process(resolved_recipe.recipe.device), restart=restart)
        settings.check_folder(work.folder.path / FOLDER, is_complete=work.folder.is_complete)
        if work.folder.is_complete:
            ui.write_line(f"{work.folder.path}: already finished; the report is {work.folder.path / 'report.html'}")
            return RunResult(work.folder.path, work.folder.read_json("report.json"))
        record.begin(work.folder, work.recipe)
        if plain_recipe.evaluate.every and "every" in plain_recipe.evaluate.model_fields_set:
            ui.write_line("evaluate.every is not used: nothing is measured between rounds")
        with work.journal:
            return _run_federation(resolved_recipe, work, settings, exchange)


def _choose_tuner(resolved_recipe: ResolvedRecipe, settings: FederationSettings) -> ResolvedRecipe:
    """SpaFL needs thresholds: its tuner, unless the recipe has one of its own."""
    recipe = resolved_recipe.recipe
    if settings.method == "spafl" and "tuner" not in recipe.model_fields_set and name_of(recipe.tuner) == "full":
        return resolve_any(resolved_recipe, ["tuner=spafl"])
    return resolved_recipe


def check_recipe(recipe: Recipe, settings: FederationSettings) -> None:
    """Refuse what cannot be trained in rounds.

    Raises:
        UserError: One line that says what to change.
    """
    tuner = name_of(recipe.tuner)
    if Ranks().world > 1:
        raise UserError(
            "holdfast federate has worker processes of its own; start it without a launcher, with --workers"
        )
    if recipe.stages:
        raise UserError("a recipe with stages cannot be federated; give one of its stages as a recipe")
    if settings.method == "spafl" and tuner != "spafl":
        raise UserError(f"--method spafl exchanges thresholds, which tuner {tuner} has none of; leave tuner out")
    if settings.method == "fedavg" and tuner == "spafl":
        raise UserError("tuner spafl keeps weights with their client; use --method spafl or local, or another tuner")
    if recipe.train.keep == "best" or recipe.train.patience:
        raise UserError("train.keep: best and train.patience choose a step of one training; leave them out here")
    if settings.exchange == "flower" and recipe.train.weights == "bf16":
        raise UserError(
            "Flower sends arrays of numpy, which has no bf16; leave train.weights out, or --exchange flower"
        )
    if recipe.inference is not None and METHODS[settings.method].is_personal:
        raise UserError(f"--method {settings.method} has a model for each client; leave inference out")


def _run_federation(
    resolved_recipe: ResolvedRecipe, work: RunContext, settings: FederationSettings, exchange: ClientExchange | None
) -> RunResult:
    """Curate, share out, train by rounds, measure, report."""
    folder = work.folder
    with folder.time_phase("curate"):
        rows = curate_rows(work)
    with folder.time_phase("evaluate"):
        subject = build_subject(work, work.base.model, work.base.fingerprint)
        before = measure_tasks(work, "measure base", work.tasks, subject, "base", use_shared_store=True)
        work.reference = subject.own_reference
    federation = prepare_clients(work, settings, rows)
    plan, report = plan_federation(resolved_recipe, federation)
    with folder.time_phase("train"):
        rounds = train_clients(federation, exchange)
    with folder.time_phase("evaluate"):
        result, after, summary = _measure_result(federation, rounds, plan)
    folder.write_json(SUMMARY, summary)
    saved_as = save_model(work, result, _plain_decoder(result), {})
    return write_results(work, rows, result, saved_as, report, plan, before, after)


def prepare_clients(work: RunContext, settings: FederationSettings, rows: Rows) -> Federation:
    """Give every client its folder with its rows, and the server the settings of the chat."""
    from holdfast.data.chat.settings import write_settings

    root, recipe = work.folder.path / FOLDER, work.recipe
    shards = split_rows(rows, settings, recipe.train.seed)
    write_settings(root, work.chat)
    (root / TEMPLATE).write_text(work.chat.template.text, encoding="utf-8")
    for name, shard in zip(name_clients(settings.clients), shards, strict=True):
        place = client_folder(root, name)
        place.mkdir(parents=True, exist_ok=True)
        if not (place / ROWS).exists():
            with fresh_file(place / ROWS) as side, side.open("w", encoding="utf-8") as handle:
                handle.writelines(rows[index].to_line() for index in shard)
    client = Client(root, recipe, METHODS[settings.method](), settings.rate_decay)
    sizes = [len(shard) for shard in shards]
    work.ui.write_line(
        f"{len(rows):,} rows shared out to {settings.clients} clients, {min(sizes):,} to {max(sizes):,} each; "
        f"{settings.rounds} rounds of {settings.method}, {settings.per_round} clients each"
    )
    return Federation(work, settings, rows, shards, client)


def plan_federation(resolved_recipe: ResolvedRecipe, federation: Federation) -> tuple[TrainingPlan, TableReport]:
    """The plan of the rounds, a step of the report being one of them, and what became of all rows together."""
    from holdfast.models.loading import tuned_context_length
    from holdfast.training.plan import plan_training

    work, recipe = federation.work, federation.work.recipe
    rows = rows_for_objective(recipe, federation.rows)
    context = tuned_context_length(work.base.model.config, recipe.tuner)
    table, report = encode_rows(recipe, rows, work.chat, context, work.folder.path / "cache")
    for line in report.summary_lines():
        work.ui.write_line(line)
    plan = plan_training(recipe, work.base.model, table, report, resolved_recipe.sources)
    return replace(plan, steps=federation.settings.rounds, warnings=()), report


def train_clients(federation: Federation, exchange: ClientExchange | None = None) -> list[Round]:
    """All rounds, those that were done before as they are written down."""
    settings, client = federation.settings, federation.client
    federation.work.ui.start_phase("train", settings.rounds)
    if exchange is None and settings.exchange == "flower":
        rounds: list[Round] = []
        about = client_settings(client, settings.method)
        run_simulation(
            lambda grid: rounds.extend(_run_rounds(federation, FlowerExchange(grid, about, settings.clients))),
            settings.clients,
        )
        return rounds
    if exchange is None:
        exchange = InlineExchange(client)
        if settings.workers:
            exchange = WorkerExchange(client, settings.workers, client_settings(client, settings.method))
    return _run_rounds(federation, exchange)


def _run_rounds(federation: Federation, exchange: ClientExchange) -> list[Round]:
    """The rounds of an exchange, each told of when it is done."""
    settings, work, client = federation.settings, federation.work, federation.client
    logged_rounds = len(work.folder.read_log())
    rounds: list[Round] = []
    try:
        for done in run_rounds(client.root, settings, work.recipe.train.seed, client.aggregation, exchange):
            rounds.append(done)
            if done.number >= logged_rounds:
                work.ui.emit(_describe_round(rounds, federation))
            for name, why in done.record["failed"].items():
                work.ui.warn(f"round {done.number + 1}: client {name} did not reply: {why}")
    finally:
        exchange.close()
    return rounds


def _describe_round(rounds: list[Round], federation: Federation) -> StepFinished:
    """A round as a step of the log."""
    record, settings, optimizer = rounds[-1].record, federation.settings, federation.work.recipe.optimizer
    seconds = sum(done.record["seconds"] for done in rounds)
    return StepFinished(
        step=len(rounds), steps=settings.rounds, epoch=float(len(rounds)), loss=record["loss"],
        terms={"loss": record["loss"]},
        metrics={key: float(record[key]) for key in ("density", "bytes_down", "bytes_up")},
        grad_norm=0.0, clipped=False,
        learning_rate=optimizer.learning_rate * settings.rate_decay ** (len(rounds) - 1),
        tokens=_sum_of(rounds, "tokens"), trained_tokens=_sum_of(rounds, "trained_tokens"),
        tokens_per_second=record["tokens"] / max(1e-9, record["seconds"]), memory_gib=0.0,
        seconds=seconds, remaining=seconds / len(rounds) * (settings.rounds - len(rounds)),
    )  # fmt: skip


def _sum_of(rounds: list[Round], key: str) -> int:
    return int(sum(done.record[key] for done in rounds))


def build_client_model(federation: Federation, tensors: Mapping[str, Tensor]) -> tuple[Model, Tuner, int]:
    """A model with trained tensors, plain where the tuner leaves it so; who reads it, and how many trained."""
    import torch

    from holdfast.models.loading import load_model, move_to_device
    from holdfast.training.apply_tuner import apply_tuner

    recipe, device = federation.work.recipe, federation.work.base.device
    model = apply_tuner(recipe, load_model(recipe.model, device=device).model, recipe.train.init_seed)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name in parameters:  # what trains beside the model is not a part of it
                parameters[name].data = tensor.to(parameters[name].device)
    count = sum(tensor.numel() for tensor in tensors.values())
    model = move_to_device(model, device).eval()
    return (model, recipe.tuner, count) if recipe.tuner.adapter else (recipe.tuner.merge(model), recipe.tuner, count)


def _plain_decoder(result: TrainResult) -> Any:
    from holdfast.generation.decoder import Decoder

    return Decoder(result.model)


def _measure_result(
    federation: Federation, rounds: list[Round], plan: TrainingPlan
) -> tuple[TrainResult, Items, dict[str, Any]]:
    """The model that is saved, its items (means over the clients' models where each has one), and the summary."""
    work, settings = federation.work, federation.settings
    summary: dict[str, Any] = {
        "method": settings.method, "rounds": [done.record for done in rounds],
        "bytes_down": _sum_of(rounds, "bytes_down"), "bytes_up": _sum_of(rounds, "bytes_up"),
        "clients": [
            {"name": name, "rows": len(shard), "groups": groups}
            for name, shard, groups in zip(
                federation.names, federation.shards,
                describe_shards(federation.rows, federation.shards, settings.group_by), strict=True,
            )
        ],
    }  # fmt: skip
    models = federation.names if federation.aggregation.is_personal else ["server"]
    every: list[Items] = []
    first: TrainResult | None = None
    for name in models:
        tensors = (
            federation.client.prepare_weights(name, settings.rounds, rounds[-1].payload)
            if federation.aggregation.is_personal else rounds[-1].payload
        )  # fmt: skip
        result = _build_result(federation, rounds, plan, tensors)
        result, decoder = apply_inference(work, result)
        subject = build_subject(work, decoder, f"{work.folder.state['recipe']}/{name}")
        every.append(measure_tasks(work, f"measure {name}", work.tasks, subject, "final" if len(models) == 1 else name))
        first = first or result
    assert first is not None
    if settings.clients:
        for index, entry in enumerate(summary["clients"]):
            items = every[index if len(every) > 1 else 0]
            entry["accuracy"] = compute_local_accuracy(work, items, entry["groups"], settings.group_by)
    return first, average_items(every), summary


def _build_result(
    federation: Federation, rounds: list[Round], plan: TrainingPlan, tensors: Mapping[str, Tensor]
) -> TrainResult:
    from holdfast.models.placement import peak_gib
    from holdfast.training.callbacks import TrainResult

    model, tuner, count = build_client_model(federation, tensors)
    seconds = sum(done.record["seconds"] for done in rounds)
    tokens = _sum_of(rounds, "tokens")
    return TrainResult(
        model=model, tuner=tuner, steps=len(rounds), epochs=float(len(rounds)), tokens=tokens,
        trained_tokens=_sum_of(rounds, "trained_tokens"), seconds=seconds, loss=rounds[-1].record["loss"],
        tokens_per_second=tokens / max(1e-9, seconds), peak_memory_gib=peak_gib(federation.work.base.device),
        step_size=plan.size, micro_tokens=plan.size.tokens, layout="padded", precision="fp32",
        arithmetic="as each client's", trainable=count, kept_step=len(rounds),
    )  # fmt: skip


def compute_local_accuracy(work: RunContext, items: Items, groups: Mapping[str, int], key: str) -> float | None:
    """The mean score on questions of a client's own mixture of groups; `None` where no task asks any of them."""
    scores: dict[str, list[float]] = {}
    for task in work.tasks:
        if task.kind not in JUDGED:
            continue
        for group, indexes in group_rows(task.rows, key).items():
            scores.setdefault(group, []).extend(items[task.name][index].score for index in indexes)
    shares = {group: count for group, count in groups.items() if scores.get(group)}
    if not shares:
        return None
    each = ((count, sum(scores[group]) / len(scores[group])) for group, count in shares.items())
    return sum(count * score for count, score in each) / sum(shares.values())


def average_items(every: list[Items]) -> Items:
    """Of each question the mean score over models; what was said is the first one's."""
    if len(every) == 1:
        return every[0]
    return {
        name: [
            replace(one, score=sum(items[name][index].score for items in every) / len(every))
            for index, one in enumerate(first)
        ]
        for name, first in every[0].items()
    }
