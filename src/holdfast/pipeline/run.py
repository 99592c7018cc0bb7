"""One run: recipe -> rows -> curate -> train(objective, tuner, optimizer) -> evaluate -> report."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.tuner import Tuner
from holdfast.core.files import fresh_file, sweep
from holdfast.core.progress import Progress
from holdfast.errors import BrokenWeights, Diverged, UserError
from holdfast.pipeline.curation_key import rows_beside
from holdfast.pipeline.live_evaluation import refuse_unmeasured, training_hooks
from holdfast.pipeline.phases import (
    Work,
    beyond_context,
    curate,
    encode,
    look_at_lengths,
    measured,
    trained,
)
from holdfast.pipeline.readiness import decoding_note, engine_note, look_ahead, look_at_prompts
from holdfast.pipeline.results import Run, finish, save_model
from holdfast.pipeline.run_dir import Folder, environment, is_curated
from holdfast.pipeline.run_record import RunRecord
from holdfast.pipeline.subject import subject_of
from holdfast.recipe.loader import Resolved, as_resolved
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.rows import Rows
    from holdfast.evaluation.task import Item
    from holdfast.generation.decoder import Decoder
    from holdfast.training.callbacks import TrainResult
    from holdfast.training.plan import Plan


def train_one(resolved: Resolved, ui: Progress, again: str, *, hand_on: bool = False, restart: bool = False) -> Run:
    """`train` for a recipe without stages, or for one stage.

    Args:
        hand_on: Keep what is measured of the result as measurements of its model: the next stage begins with it.
    """
    ranks = Ranks(resolved.recipe.device)
    with RunRecord(ui, writes=ranks.main) as record:
        work = prepare(resolved, ui, ranks, restart=restart)
        if work.folder.finished:
            ui.line(f"{work.folder.path}: already finished; the report is {work.folder.path / 'report.html'}")
            return Run(work.folder.path, work.folder.read_json("report.json"))
        record.begin(work.folder, work.recipe)
        return run_prepared(resolved, work, ranks, again, hand_on)


def run_prepared(resolved: Resolved, work: Work, ranks: Ranks, again: str, hand_on: bool) -> Run:
    """Curate, train, measure and report, once everything was looked at."""
    with work.journal:
        if ranks.main:
            with work.folder.timed("curate"):
                rows = curate(work)
            with work.folder.timed("evaluate"):
                subject = subject_of(work, work.base.model, work.base.fingerprint)
                before = measured(work, "measure base", work.tasks, subject, "base", shared=True)
                work.reference = subject.recorded
        ranks.wait()
        if not ranks.main:
            rows, before = curate(work), {}
        with work.folder.timed("train"), marking_divergence(work.folder, ranks):
            result, table, plan = fit(resolved, work, rows, before, again)
        if not ranks.main:
            return Run(work.folder.path, {})
        result, decoder = after_training(work, result)
        with work.folder.timed("evaluate"):
            subject = subject_of(work, decoder, f"{work.folder.state['recipe']}/final")
            after = measured(work, "measure tuned", work.tasks, subject, "final")
        saved_as = save_model(work, result, decoder, after if hand_on else {})
        return finish(work, rows, result, saved_as, table, plan, before, after)


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
    def one(cls, device: str = "auto") -> Ranks:
        """This process, whatever others there are: for what is done by the first alone."""
        ranks = cls(device)
        ranks.world, ranks.rank, ranks.main = 1, 0, True
        return ranks

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            from holdfast.models.placement import choose_device
            from holdfast.training.distributed import meet

            meet(choose_device(self.device))


@contextlib.contextmanager
def marking_divergence(folder: Folder, ranks: Ranks) -> Iterator[None]:
    """Write down that training diverged inside, so that a mended recipe is let in."""
    try:
        yield
    except Diverged:
        if ranks.main:
            folder.state["diverged"] = True
            folder.save()
        raise


def prepare(resolved: Resolved, ui: Progress, ranks: Ranks, *, trains: bool = True, restart: bool = False) -> Work:
    """Everything that can be refused is looked at here, before anything is written."""
    from holdfast.data.chat.settings import derived_sources, make_chat
    from holdfast.evaluation.tasks.by_name import build_tasks, nothing_kept
    from holdfast.evaluation.tasks.probe import affordable
    from holdfast.generation.journal import Journal
    from holdfast.models.loading import context_length, embeddings_of, load
    from holdfast.models.placement import choose_device
    from holdfast.pipeline.sources import read_sources
    from holdfast.training import checkpoint

    recipe = resolved.recipe
    device = choose_device(recipe.device)
    ui.phase("load")
    for note in resolved.notes:
        ui.line(note)
    sources = read_sources(recipe, ui.line, ui.warn, resolved.sources)
    base = load(recipe.model, device=device)
    if trains:
        refuse_adapter(base.path, recipe.model)
    beside = rows_beside(recipe)
    chat = make_chat(recipe.data, base.tokenizer, sources.train, sources.test, *beside, say=ui.line, warn=ui.warn)
    chat.limit_to(embeddings_of(base.model))
    tasks = affordable(build_tasks(recipe, sources.test, sources.judge, lab=base.lab, say=ui.line), base.model)
    if trains:
        refuse_unmeasured(recipe, tasks)
        for line in filter(None, (nothing_kept(tasks), decoding_note(base.path))):
            ui.warn(line)
        context = context_length(base.model.config, recipe.tuner.virtual_tokens())
        for line in [*beyond_context(recipe, context), *engine_note(recipe, base.model, tasks)]:
            ui.line(line)
        for line in [*look_at_lengths(recipe, sources, chat, context), *look_at_prompts(tasks, chat, context)]:
            ui.warn(line)
    if ranks.main and not recipe.stages:
        look_ahead(recipe, sources.judge, base.model, samples=restart or not is_curated(recipe), say=ui.line)
    folder = open_folder(resolved, ranks, ui, restart)
    if ranks.main and not folder.finished and (derived := derived_sources(recipe.data, chat)):
        folder.write_resolved(resolved, derived)
    if trains and not folder.finished:
        checkpoint.refuse_other_base(folder.path / "checkpoints", recipe.model, base.fingerprint)
    journal = Journal(folder.path / "samples.jsonl" if ranks.main else None)  # other processes sample nothing
    if ranks.main:  # whoever holds the journal is alone here, but for the other processes of a launch
        for place in (folder.path, *(p for p in folder.path.glob("*") if p.is_dir()), *folder.path.glob("eval/*")):
            sweep(place, everyone=Ranks().world == 1)
    return Work(recipe, folder, ui, base, chat, sources, beside, tasks, journal)


def open_folder(resolved: Resolved, ranks: Ranks, ui: Progress, restart: bool = False) -> Folder:
    """The run's directory, made by the first process and found by the others."""
    from holdfast.models.placement import choose_device

    if not ranks.main:
        ranks.wait()
    folder = Folder.open(resolved, restart=restart and ranks.main)
    if ranks.main:
        for note in folder.notes:
            ui.line(note)
        folder.write_json("env.json", environment(choose_device(resolved.recipe.device)))
        ranks.wait()
    return folder


def refuse_adapter(path: Path, name: str) -> None:
    """An adapter is stored without the weights below it, so that training beside or below it could not be kept."""
    from holdfast.models.files import is_adapter

    if is_adapter(path):
        raise UserError(
            f"model: {name} is an adapter, on which no other training can build; fold it into the weights "
            f"(holdfast export {name} MERGED --merge) and start from that, or make both runs stages of one recipe"
        )


def fit(
    resolved: Resolved, work: Work, rows: Rows, before: dict[str, list[Item]], again: str
) -> tuple[TrainResult, TableReport, Plan]:
    """Encode the rows and train on them, measuring a few questions of every task on the way."""
    from holdfast.data.chat.settings import derived_sources
    from holdfast.models.loading import context_length
    from holdfast.training.plan import plan_training
    from holdfast.training.trainer import Trainer

    recipe, folder, ui = work.recipe, work.folder, work.ui
    rows = trained(recipe, rows)
    context = context_length(work.base.model.config, recipe.tuner.virtual_tokens())
    table, told = encode(recipe, rows, work.chat, context, folder.path / "cache")
    for line in told.lines():
        ui.line(line)
    plan = plan_training(recipe, work.base.model, table, told, resolved.sources)
    for line in plan.lines():
        ui.line(line)
    for line in plan.warnings:
        ui.warn(line)
    if Ranks().main and plan.size.derived:
        source = resolved.sources.get("train.batch_tokens", "default")
        told_of = derived_sources(recipe.data, work.chat)
        folder.write_resolved(resolved, {**told_of, "train.batch_tokens": f"{source}: {plan.size.text}"})
    ui.phase("train")
    trainer = Trainer(
        recipe, work.base.model, table, folder.path,
        pad_id=work.chat.pad_id, hooks=training_hooks(work, before), again=again,
        base=work.base.fingerprint,
        name_row=lambda i: f"row {table.source[i] + 1} ({rows[table.source[i]].beginning!r})",
    )  # fmt: skip
    return trainer.fit(), told, plan


def after_training(work: Work, result: TrainResult) -> tuple[TrainResult, Decoder]:
    """The training with the settled model that is saved, and how that answers through the recipe's inference method.

    Memory that only training needed is given back first.
    """
    from holdfast.generation.decoder import make_decoder
    from holdfast.models.files import count_broken
    from holdfast.models.loading import load, put
    from holdfast.models.merging import fold
    from holdfast.models.placement import give_back_memory, weights_dtype
    from holdfast.models.saving import settle

    device, saved = work.base.device, work.base.dtype
    held, inference = weights_dtype(saved, device), work.recipe.inference
    give_back_memory(device)
    tuned, tuner = put(settle(result.model, saved, held, result.tuner), device), result.tuner
    if inference is not None and "weights" in inference.changes():
        tuned, tuner = fold(tuned, tuner), Tuner()
    base = load(work.recipe.model, device=device) if inference is not None and inference.reads_base() else None
    decoder = make_decoder(inference, base, tuned, work.recipe.model)
    if decoder.model is not tuned:
        settle(decoder.model, saved, held, tuner)
    give_back_memory(device)
    if broken := count_broken(decoder.model.parameters()):
        raise BrokenWeights(
            f"{work.folder.path}: {broken:,} of the model's weights are no finite numbers in {saved}; it is not saved: "
            "lower optimizer.learning_rate, or start from the model in fp32"
        )
    return replace(result, model=decoder.model, tuner=tuner), decoder


def curate_only(
    recipe: Resolved | Recipe | dict[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    ui: Progress | None = None,
    restart: bool = False,
) -> Path:
    """Do everything up to training: the file of rows that would be trained on.

    Args:
        out: A copy of it; default: only `curated.jsonl` in the run's directory.
        restart: Begin anew where the output holds a run, which is kept as `OUTPUT.old-1`.
    """
    resolved = as_resolved(recipe)
    if resolved.recipe.stages:
        raise UserError(
            f"{resolved.name}: has stages, and each curates rows with the model of the one before; train it, then look "
            "at OUTPUT/stages/*/curated.jsonl"
        )
    ranks = Ranks(resolved.recipe.device)
    work = prepare(resolved, ui or Progress.silent(), ranks, trains=False, restart=restart)
    with work.journal, work.folder.timed("curate"):
        curate(work)
    path = work.folder.path / "curated.jsonl"
    if out is None:
        return path
    with fresh_file(Path(out)) as side:
        shutil.copyfile(path, side)
    return Path(out)
