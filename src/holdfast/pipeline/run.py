"""One run: recipe -> rows -> curate -> train(objective, tuner, optimizer) -> evaluate -> report."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.axes.tuner import Tuner
from holdfast.core.files import remove_leftovers
from holdfast.core.in_memory import is_memory
from holdfast.core.progress import Progress
from holdfast.errors import BrokenWeights, TrainingDiverged
from holdfast.pipeline.curation_check import CurationPool
from holdfast.pipeline.curation_key import open_replay_rows
from holdfast.pipeline.curation_shards import list_shard_journals
from holdfast.pipeline.frozen_base import load_training_base, restore_base
from holdfast.pipeline.inference_bench import settle_inference
from holdfast.pipeline.live_evaluation import build_training_hooks, refuse_unmeasured
from holdfast.pipeline.online import choose_environment, prepare_rounds, select_playable_rows
from holdfast.pipeline.pair_ranking import build_rater
from holdfast.pipeline.phases import (
    RunContext,
    check_row_lengths,
    curate_rows,
    describe_context_limit,
    encode_rows,
    measure_tasks,
    rows_for_objective,
)
from holdfast.pipeline.readiness import (
    check_inference,
    check_prompt_lengths,
    check_readiness,
    describe_decoding,
    describe_engine,
    refuse_adapter,
)
from holdfast.pipeline.results import RunResult, save_model, write_results
from holdfast.pipeline.run_dir import RunDirectory, describe_environment, is_curated
from holdfast.pipeline.run_record import RunRecord
from holdfast.pipeline.subject import build_subject
from holdfast.recipe.loader import ResolvedRecipe
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.data.batching.batches import TokenTable
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Rows
    from holdfast.evaluation.task import ItemResult, Task
    from holdfast.generation.decoder import Decoder
    from holdfast.generation.journal import Journal
    from holdfast.models.loading import LoadedModel
    from holdfast.pipeline.sources import Sources
    from holdfast.training.callbacks import TrainResult
    from holdfast.training.plan import TrainingPlan


def train_one(
    resolved_recipe: ResolvedRecipe, ui: Progress, rerun_hint: str, *, hand_on: bool = False, restart: bool = False,
    parents: Sequence[Path] = (),
) -> RunResult:  # fmt: skip
    """`train` for a recipe without stages, or for one stage.

    Args:
        parents: Journals of other runs, whose samples are not drawn again.
        hand_on: Keep what is measured of the result as measurements of its model: the next stage begins with it.
    """
    from holdfast.models.placement import choose_device, give_back_heap, reset_peak

    ranks = Ranks(resolved_recipe.recipe.device)
    give_back_heap()
    reset_peak(choose_device(resolved_recipe.recipe.device))  # earlier runs of this process are not of this one
    with RunRecord(ui, writes=ranks.main) as record:
        work = prepare_run(resolved_recipe, ui, ranks, restart=restart, parents=parents)
        if work.folder.is_complete:
            ui.write_line(f"{work.folder.path}: already finished; the report is {work.folder.path / 'report.html'}")
            return RunResult(work.folder.path, work.folder.read_json("report.json"))
        record.begin(work.folder, work.recipe)
        return run_prepared(resolved_recipe, work, ranks, rerun_hint, hand_on)


def run_prepared(
    resolved_recipe: ResolvedRecipe, work: RunContext, ranks: Ranks, rerun_hint: str, hand_on: bool
) -> RunResult:
    """Curate, train, measure and report, once everything was looked at."""
    with work.journal:
        if ranks.main:
            with work.folder.time_phase("curate"):
                rows = curate_rows(work)
            with work.folder.time_phase("evaluate"):
                subject = build_subject(work, work.base.model, work.base.fingerprint)
                before = measure_tasks(work, "measure base", work.tasks, subject, "base", use_shared_store=True)
                work.reference = subject.own_reference
                del subject  # its engine keeps slots to decode in, which training has a use for
        ranks.wait_for_all()
        if not ranks.main:
            rows, before = curate_rows(work), {}
        with work.folder.time_phase("train"), mark_divergence(work.folder, ranks):
            result, token_report, plan = train_model(resolved_recipe, work, rows, before, rerun_hint)
        if not ranks.main:
            return RunResult(work.folder.path, {})
        result, decoder = apply_inference(work, result, rows)
        with work.folder.time_phase("evaluate"):
            after = measure_tuned(work, decoder, result)
        saved_as = save_model(work, result, decoder, after if hand_on else {})
        return write_results(work, rows, result, saved_as, token_report, plan, before, after)


def measure_tuned(work: RunContext, decoder: Decoder, result: TrainResult) -> dict[str, list[ItemResult]]:
    """The items of the tuned model as it answers, with what that cost added to what earlier sessions spent on it."""
    name = f"stop-{result.steps:06d}" if result.is_partial else "final"
    subject = build_subject(work, decoder, f"{work.folder.state['recipe']}/{name}", result.tuner)
    subject.rater = build_rater(work, result.model, result.value_head)
    began = time.perf_counter()
    items = measure_tasks(work, "measure tuned", work.tasks, subject, "final")
    cost = work.folder.state.setdefault("answering", {"seconds": 0.0, "passes": 0})
    cost["seconds"] += time.perf_counter() - began
    cost["passes"] += subject.count_passes() if subject.count_passes else 0
    work.folder.save_state()
    return items


class Ranks:
    """The processes `accelerate launch` started; one when there is no launcher.

    Args:
        device: The recipe's.
    """

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self.world, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        self.main = self.rank == 0

    @classmethod
    def single_process(cls, device: str = "auto") -> Ranks:
        """This process, whatever others there are: for what is done by the first alone."""
        ranks = cls(device)
        ranks.world, ranks.rank, ranks.main = 1, 0, True
        return ranks

    def wait_for_all(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            from holdfast.models.placement import choose_device
            from holdfast.training.distributed import wait_at_barrier

            wait_at_barrier(choose_device(self.device))


@contextlib.contextmanager
def mark_divergence(folder: RunDirectory, ranks: Ranks) -> Iterator[None]:
    """Write down that training diverged inside, so that a mended recipe is let in."""
    try:
        yield
    except TrainingDiverged:
        if ranks.main:
            folder.state["diverged"] = True
            folder.save_state()
        raise


def prepare_run(
    resolved_recipe: ResolvedRecipe, ui: Progress, ranks: Ranks, *, trains: bool = True, restart: bool = False,
    parents: Sequence[Path] = (), joins: bool = False,
) -> RunContext:  # fmt: skip
    """Everything that can be refused is looked at here, before anything is written.

    Args:
        parents: Journals of other runs, which are only read.
        joins: Whether the journals of shards are to be taken over; else they are read like those.
    """
    from holdfast.data.chat.settings import derived_sources, make_chat
    from holdfast.evaluation.tasks.by_name import build_tasks, warn_of_nothing_kept
    from holdfast.evaluation.tasks.probe import limit_probe_tasks
    from holdfast.models.loading import count_embeddings, load_model
    from holdfast.models.placement import choose_device
    from holdfast.pipeline.sources import read_sources
    from holdfast.training import checkpoint

    recipe = resolved_recipe.recipe
    device = choose_device(recipe.device)
    ui.start_phase("load")
    for note in resolved_recipe.notes:
        ui.write_line(note)
    sources = read_sources(recipe, ui.write_line, ui.warn, resolved_recipe.sources)
    base = load_model(recipe.model, device=device)
    if trains:
        refuse_adapter(base.path, recipe.model)
    replay_rows = open_replay_rows(recipe)
    chat = make_chat(
        recipe.data, base.tokenizer, sources.train, sources.test, *replay_rows, say=ui.write_line, warn=ui.warn
    )
    chat.limit_to(count_embeddings(base.model))
    tasks = limit_probe_tasks(
        build_tasks(recipe, sources.test, sources.judge, lab=base.lab, say=ui.write_line), base.model
    )
    if trains:
        refuse_unmeasured(recipe, tasks)
        warning = warn_of_nothing_kept(tasks, trains=recipe.train.max_steps != 0)
        lines = (warning, describe_decoding(base.path), *check_inference(recipe, sources, tasks))
        for line in filter(None, lines):
            ui.warn(line)
        _report_limits(recipe, base, sources, tasks, chat, ui)
    if ranks.main and not recipe.stages:
        pool = CurationPool(sources.train, base.tokenizer) if restart or not is_curated(recipe) else None
        check_readiness(recipe, sources.judge, base.model, samples=pool is not None, pool=pool, say=ui.write_once)
    folder = open_run_directory(resolved_recipe, ranks, ui, restart)
    if ranks.main and not folder.is_complete and (chat_sources := derived_sources(recipe.data, chat)):
        folder.write_resolved(resolved_recipe, chat_sources)
    if trains and not folder.is_complete:
        checkpoint.refuse_other_base(folder.path / "checkpoints", recipe.model, base.fingerprint)
    journal = _open_journal(folder, ranks, parents, joins)
    return RunContext(recipe, folder, ui, base, chat, sources, replay_rows, tasks, journal)


def _open_journal(folder: RunDirectory, ranks: Ranks, parents: Sequence[Path], joins: bool) -> Journal:
    """The run's journal, after which nobody else writes here; what killed processes left half written goes."""
    from holdfast.generation.journal import Journal

    shards = [] if joins else list_shard_journals(folder.path, folder.state)
    path = folder.path / "samples.jsonl" if ranks.main else None  # others sample nothing
    journal = Journal(path, [*parents, *shards])
    if ranks.main:  # whoever holds the journal is alone here, but for the other processes of a launch
        for place in (folder.path, *(p for p in folder.path.glob("*") if p.is_dir()), *folder.path.glob("eval/*")):
            remove_leftovers(place, everyone=Ranks().world == 1)
    return journal


def _report_limits(
    recipe: Recipe, base: LoadedModel, sources: Sources, tasks: list[Task], chat: Chat, ui: Progress
) -> None:
    """Say what the model's context, and the engine, mean for rows and questions."""
    from holdfast.models.loading import tuned_context_length

    if recipe.tuner.virtual_tokens():
        recipe.tuner.check(base.model)  # too many are named as such, and not as too little room for rows
    context = tuned_context_length(base.model.config, recipe.tuner)
    for line in [*describe_context_limit(recipe, context), *describe_engine(recipe, base.model, tasks)]:
        ui.write_once(line)
    if recipe.credit is not None:  # refused here if no row can be played
        environment = choose_environment(recipe, sources.judge)
        select_playable_rows(sources.train, environment, chat, context, recipe.sampling.max_tokens)
    lengths = [] if recipe.credit is not None else check_row_lengths(recipe, sources, chat, context)
    for line in [*lengths, *check_prompt_lengths(tasks, chat, context)]:
        ui.warn(line)


def open_run_directory(
    resolved_recipe: ResolvedRecipe, ranks: Ranks, ui: Progress, restart: bool = False
) -> RunDirectory:
    """The run's directory, made by the first process and found by the others."""
    from holdfast.models.placement import choose_device

    if not ranks.main:
        ranks.wait_for_all()
    folder = RunDirectory.open(resolved_recipe, restart=restart and ranks.main)
    if ranks.main:
        for note in folder.notes:
            ui.write_line(note)
        folder.write_json("env.json", describe_environment(choose_device(resolved_recipe.recipe.device)))
        ranks.wait_for_all()
    return folder


def train_model(
    resolved_recipe: ResolvedRecipe, work: RunContext, rows: Rows, before: dict[str, list[ItemResult]], rerun_hint: str
) -> tuple[TrainResult, TableReport, TrainingPlan]:
    """Encode the rows and train on them, measuring a few questions of every task on the way."""
    from holdfast.data.chat.settings import derived_sources
    from holdfast.training.trainer import Trainer

    recipe, folder, ui = work.recipe, work.folder, work.ui
    prepare = prepare_rounds if recipe.credit is not None else prepare_table
    table, token_report, plan, name_row = prepare(resolved_recipe, work, rows)
    # How many tokens are trained says nothing where none are.
    for line in [*(token_report.summary_lines() if plan.steps else ()), *plan.summary_lines()]:
        ui.write_line(line)
    for line in plan.warnings:
        ui.warn(line)
    if Ranks().main and plan.size.derived:
        source = resolved_recipe.sources.get("train.batch_tokens", "default")
        chat_sources = derived_sources(recipe.data, work.chat)
        folder.write_resolved(resolved_recipe, {**chat_sources, "train.batch_tokens": f"{source}: {plan.size.text}"})
    if not plan.steps:
        return build_untrained_result(work, plan), token_report, plan
    ui.start_phase("train")
    trainer = Trainer(
        recipe, load_training_base(work), table, folder.path,
        pad_id=work.chat.pad_id, hooks=build_training_hooks(work, before), rerun_hint=rerun_hint,
        base=work.base.fingerprint, name_row=name_row,
    )  # fmt: skip
    return restore_base(work, trainer.fit()), token_report, plan


def build_untrained_result(work: RunContext, plan: TrainingPlan) -> TrainResult:
    """What stands in the place of a training where nothing is trained: the base as it is."""
    from holdfast.models.base_reference import BaseReference
    from holdfast.models.placement import peak_gib
    from holdfast.training.callbacks import TrainResult

    # Of a model that was given as an object the cache has the only copy, which may be cleared.
    tuner = Tuner() if is_memory(work.recipe.model) else BaseReference()
    return TrainResult(
        model=work.base.model.eval(), tuner=tuner, steps=0, epochs=0.0, tokens=0, trained_tokens=0, seconds=0.0,
        loss=math.nan, tokens_per_second=0.0, peak_memory_gib=peak_gib(work.base.device), step_size=plan.size,
        micro_tokens=plan.size.tokens, layout="padded", precision="fp32", arithmetic="nothing is trained", trainable=0,
    )  # fmt: skip


def prepare_table(
    resolved_recipe: ResolvedRecipe, work: RunContext, rows: Rows
) -> tuple[TokenTable, TableReport, TrainingPlan, Callable[[int], str]]:
    """The rows as tokens, what became of them, the plan, and what an error calls the row of an index."""
    from holdfast.models.loading import tuned_context_length
    from holdfast.training.plan import plan_training

    recipe = work.recipe
    rows = rows_for_objective(recipe, rows)
    context = tuned_context_length(work.base.model.config, recipe.tuner)
    table, token_report = encode_rows(recipe, rows, work.chat, context, work.folder.path / "cache")
    plan = plan_training(recipe, work.base.model, table, token_report, resolved_recipe.sources)
    return table, token_report, plan, lambda i: rows[int(table.source[i])].describe_row(int(table.source[i]) + 1)


def apply_inference(work: RunContext, result: TrainResult, rows: Rows | None = None) -> tuple[TrainResult, Decoder]:
    """The training with the settled model that is saved, and how that answers through the recipe's inference method.

    Memory that only training needed is given back first.

    Args:
        rows: What was trained on; default: the rows as they came.
    """
    from holdfast.generation.decoder import build_decoder
    from holdfast.models.files import count_non_finite
    from holdfast.models.loading import load_model, move_to_device
    from holdfast.models.merging import fold_adapter
    from holdfast.models.placement import give_back_memory, weights_dtype
    from holdfast.models.saving import cast_as_reloaded

    device, saved_dtype = work.base.device, work.base.dtype
    held_dtype = weights_dtype(saved_dtype, device)
    give_back_memory(device)
    tuned, tuner = (
        move_to_device(cast_as_reloaded(result.model, saved_dtype, held_dtype, result.tuner), device),
        result.tuner,
    )
    inference = settle_inference(work, result, tuned, work.sources.train if rows is None else rows)
    if inference is not None and "weights" in inference.list_changes():
        tuned, tuner = fold_adapter(tuned, tuner), Tuner()
    base = load_model(work.recipe.model, device=device) if inference is not None and inference.reads_base() else None
    decoder = build_decoder(inference, base, tuned, work.recipe.model)
    if decoder.model is not tuned:
        cast_as_reloaded(decoder.model, saved_dtype, held_dtype, tuner)
    give_back_memory(device)
    if broken_count := count_non_finite(decoder.model.parameters()):
        raise BrokenWeights(
            f"{work.folder.path}: {broken_count:,} of the model's weights are no finite numbers in {saved_dtype}; it "
            "is not saved: lower optimizer.learning_rate, or start from the model in fp32"
        )
    return replace(result, model=decoder.model, tuner=tuner), decoder
