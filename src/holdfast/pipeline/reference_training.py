"""A reference for curators: the base briefly fine-tuned on rows, a training of its own in the cache of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.axes.registry import find_method, name_of
from holdfast.core.files import remove_path
from holdfast.data.row_shapes import ANSWER
from holdfast.data.rows import Rows, fingerprint_json
from holdfast.errors import UserError
from holdfast.pipeline.row_encoding import encode_rows
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.pipeline.phases import RunContext

VERSION = 1
"""Part of every reference's name; raised when it is trained differently."""


def train_reference(work: RunContext, curator: str, rows: Rows, epochs: float) -> Path:
    """Fine-tune the base on the answers of rows, unless that was done before; the directory of the result.

    Killed it goes on from its last checkpoint. The run's own base is not touched: another copy is loaded.

    Args:
        curator: Who asks, for progress and errors.
    Raises:
        UserError: Under a launcher of several processes, which would wait for one another.
    """
    from holdfast.models.loading import load_model, tuned_context_length
    from holdfast.models.placement import give_back_memory
    from holdfast.models.saving import save_model
    from holdfast.training.callbacks import Hooks
    from holdfast.training.plan import plan_training
    from holdfast.training.setup import collect_training_settings
    from holdfast.training.trainer import Trainer

    recipe = build_reference_recipe(work.recipe, epochs)
    context = tuned_context_length(work.base.model.config, recipe.tuner)
    table, report = encode_rows(recipe, rows, work.chat, context)
    plan = plan_training(recipe, work.base.model, table, report, {})
    made_by = collect_training_settings(recipe, table, plan.size.tokens, work.base.fingerprint)
    home = work.folder.path / "cache" / "references" / fingerprint_json([VERSION, made_by])[:24]
    if (home / "model").is_dir():
        return home / "model"
    _refuse_launcher(curator)
    base = load_model(recipe.model, device=work.base.device)
    work.ui.start_phase(f"{curator}: train a reference", plan.steps)
    work.ui.write_line(f"{curator}: a reference is trained on {len(rows):,} rows, {plan.steps:,} steps: {home}")
    trainer = Trainer(
        recipe, base.model, table, home,
        pad_id=work.chat.pad_id, hooks=Hooks(on_step=lambda step: work.ui.advance()), base=work.base.fingerprint,
        name_row=lambda i: rows[int(table.source[i])].describe_row(int(table.source[i]) + 1),
    )  # fmt: skip
    result = trainer.fit()
    save_model(
        result.model, base.tokenizer, home / "model",
        dtype=base.dtype, chat=work.chat, tuner=result.tuner, base=work.base.fingerprint,
    )  # fmt: skip
    remove_path(home / "checkpoints")
    del trainer, result, base
    give_back_memory(work.base.device)
    return home / "model"


def build_reference_recipe(recipe: Recipe, epochs: float) -> Recipe:
    """The recipe with plain fine-tuning on answers, for as many epochs, whatever its own rows and objective are.

    A frozen base in few bits is one in all of them: what is compared is computed in one precision.
    """
    changes: dict[str, object] = {"objective": find_method("objectives", "sft")(), "curate": ()}
    if recipe.objective.row_shape() is not ANSWER:  # whose rate is for another loss
        usual = Recipe.model_validate(
            {
                "model": recipe.model, "data": {"train": "lab"},
                "tuner": name_of(recipe.tuner), "optimizer": name_of(recipe.optimizer),
            }
        )  # fmt: skip
        rate = usual.optimizer.learning_rate
        changes["optimizer"] = recipe.optimizer.model_copy(update={"learning_rate": rate})
    if recipe.tuner.frozen_bits() is not None:
        changes["tuner"] = recipe.tuner.model_copy(update={"base_bits": None})
    changes["train"] = recipe.train.model_copy(
        update={"epochs": epochs, "max_steps": None, "keep": "last", "patience": None}
    )
    changes["evaluate"] = recipe.evaluate.model_copy(update={"every": 0.0})
    return recipe.model_copy(update=changes)


def _refuse_launcher(curator: str) -> None:
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"curator {curator} trains a reference, which one process does by itself; run holdfast curate RECIPE "
            "without a launcher first: training then takes the rows it wrote"
        )
