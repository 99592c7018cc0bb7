"""What can only be found out by trying: looked at before a run writes anything, and by `holdfast check`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.axes.judge import Judge
from holdfast.axes.registry import name_of
from holdfast.data.pictures.references import pictures_of
from holdfast.errors import UserError
from holdfast.evaluation.task import ANSWERED
from holdfast.generation.factory import EngineSpec, is_remote
from holdfast.generation.pool.ray_actors import require_ray
from holdfast.pipeline.curation_check import CurationPool, check_curators
from holdfast.pipeline.trackers import refuse_missing
from holdfast.recipe.sampling_section import DRAFT_TOKENS
from holdfast.recipe.schema import Recipe
from holdfast.recipe.task_entry import takes_recipe_judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Row
    from holdfast.evaluation.task import Task
    from holdfast.generation.speculative_batch import Draft
    from holdfast.models.loading import Model
    from holdfast.pipeline.sources import Sources


def check_readiness(
    recipe: Recipe,
    judge: Judge | None,
    model: Model | None = None,
    *,
    samples: bool = True,
    pool: CurationPool | None = None,
    say: Callable[[str], Any] | None = None,
) -> None:
    """Try the engine, the judge, and the tuner on the model: none of them is needed before the base is measured.

    Args:
        judge: The recipe's, or the one found for its rows, if any.
        model: The base; default: the shape of the recipe's, without weights.
        samples: Whether rows are still to be sampled, so that the engine is needed.
        pool: What curators choose from, where they are still to do that.
        say: Told what keeps code that the judge runs from harm.
    Raises:
        UserError: What the run would have raised after its first hours.
    """
    from holdfast.generation.decoder import check_models, refuse_setup
    from holdfast.models.loading import load_skeleton, locate_model
    from holdfast.models.merging import refuse_unmergeable

    refuse_missing(recipe.track)
    refuse_rounding(recipe, locate_model(recipe.model))
    uses_judge = any(curator.uses_judge() for curator in recipe.curate) or takes_recipe_judge(recipe.evaluate.target)
    uses_judge |= recipe.credit is not None and recipe.environment is None  # it is the reward then
    refuse_other_tokens(recipe.sampling.draft, recipe.model)
    for engine, name in list_engines(recipe) if samples else ():
        check_engine(engine, name, say or len)
    if recipe.sampling.runner == "ray":
        require_ray()
    if recipe.inference is not None:
        check_models(recipe.inference, recipe.model)
        if say is not None:
            for note in recipe.inference.list_notes():
                say(note)
    for name in recipe.objective.extra_models():
        refuse_setup(f"objective {name_of(recipe.objective)}", locate_model(name))
    if judge is not None and uses_judge:
        judge.check_ready()
        if say is not None and (line := judge.describe_protection()):
            say(line)
        if judge.needs_engine and (kind := getattr(judge, "engine", None)):
            check_engine(kind, getattr(judge, "model", None))
    if pool is not None:
        check_curators(recipe, pool, say or len)
    if recipe.environment is not None:
        recipe.environment.check_ready()
    recipe.optimizer.check_ready()
    base = model if model is not None else load_skeleton(recipe.model)
    recipe.tuner.check(base)
    refuse_lost_keys(recipe)
    refuse_picture_settings(recipe, base, pool.rows if pool is not None else ())
    for analysis in recipe.analyses:
        if analysis.compares:
            raise UserError(
                f"analyses: {name_of(analysis)} compares several runs: take it out here, and give the command "
                f"`holdfast analyse RUN RUN ... {name_of(analysis)}` when they are finished"
            )
        if analysis.folds:
            refuse_unmergeable(recipe.tuner, f"analyses: {name_of(analysis)} compares weight by weight: ")
    if recipe.inference is not None:
        refuse_unmergeable(recipe.tuner, f"inference {name_of(recipe.inference)} needs plain weights: ")


def refuse_lost_keys(recipe: Recipe) -> None:
    """See that no layer is computed again whose keys a tuner has put into the cache.

    Raises:
        UserError: If one would be.
    """
    if recipe.tuner.stands_in_cache and recipe.train.gradient_checkpointing != "off":
        raise UserError(
            f"train.gradient_checkpointing: layers that are computed again find no keys of tuner "
            f"{name_of(recipe.tuner)}; set it to off"
        )


def refuse_picture_settings(recipe: Recipe, model: Model, rows: Iterable[Row]) -> None:
    """See that eyes which are to train are there and reached by the tuner, and that no pictures are to be packed.

    Args:
        model: The base, or its shape.
        rows: What is trained on, or curated first.
    Raises:
        UserError: If not.
    """
    from holdfast.models.eyes import eye_parameters
    from holdfast.training.apply_tuner import describe_untrained_eyes
    from holdfast.training.layout import PACKED_PICTURES

    plain: Any = model  # no adapter is in it yet
    targets = getattr(recipe.tuner, "target_modules", None)
    expression = targets if isinstance(targets, str) else ""
    paths = [name.rpartition(".")[0] for name in eye_parameters(plain)]
    is_reached = any(re.fullmatch(expression, path) for path in paths) if recipe.tuner.adapter else bool(paths)
    if recipe.train.vision == "trained" and not is_reached:
        raise UserError(describe_untrained_eyes(recipe, model.config))
    if recipe.train.layout == "packed" and paths and any(pictures_of(row.messages) for row in rows):
        raise UserError(PACKED_PICTURES)


def refuse_adapter(path: Path, name: str) -> None:
    """An adapter is stored without the weights below it, so that training beside or below it could not be kept.

    Args:
        path: The directory of the base.
        name: What the recipe calls it.
    Raises:
        UserError: If the base is an adapter, or what a run left that trained nothing; the line says what to start from.
    """
    from holdfast.models.adapters import read_tuner, tuner_of
    from holdfast.models.base_reference import BaseReference
    from holdfast.models.files import OWN_WEIGHTS, is_adapter

    if (path / OWN_WEIGHTS).is_dir():
        raise UserError(
            f"model: {name} is a prompt and the weights it was trained with; start from the weights alone: "
            f"{path / OWN_WEIGHTS}"
        )
    if (about := read_tuner(path)) is not None and isinstance(tuner_of(path), BaseReference):
        raise UserError(
            f"model: {name} is of a run that trained nothing: its weights are those of {about['base']}; start from that"
        )
    if is_adapter(path):
        raise UserError(
            f"model: {name} is an adapter, on which no other training can build; fold it into the weights "
            f"(holdfast export {name} MERGED --merge) and start from that, or make both runs stages of one recipe"
        )


def open_draft(name: str | None, device: str, tokens: int = DRAFT_TOKENS) -> Draft | None:
    """Who proposes tokens where answers are sampled; `None` where nobody does.

    Args:
        name: Of a small model, as in a recipe.
        device: Where it shall live, as in a recipe.
        tokens: How many it proposes at once.
    """
    from holdfast.generation.speculative_batch import Draft
    from holdfast.models.loading import load_model

    return None if name is None else Draft(load_model(name, device=device).model, tokens)


def refuse_other_tokens(draft: str | None, model: str, setting: str = "sampling.draft") -> None:
    """See that the small model that proposes tokens has those of the model.

    Args:
        draft: Its name; `None` where nobody proposes any.
        setting: What names it, as messages begin with it.
    Raises:
        UserError: If there is none of that name, or it has others.
    """
    from holdfast.generation.decoder import refuse_setup
    from holdfast.models.loading import load_tokenizer, locate_model

    if draft is None:
        return
    refuse_setup(setting, locate_model(draft))
    if load_tokenizer(draft).get_vocab() != load_tokenizer(model).get_vocab():
        raise UserError(
            f"{setting}: {draft} has another tokenizer than {model}, so it cannot propose its tokens; name "
            "a smaller model of the same family, or leave it out"
        )


def list_engines(recipe: Recipe) -> list[tuple[EngineSpec, str | None]]:
    """The engines that curators sample from, each with the model it is asked for."""
    own = [curator.teacher_engine() for curator in recipe.curate if curator.samples]
    usual = recipe.sampling
    return list(dict.fromkeys((engine or usual.engine, name or usual.model) for engine, name in own))


def refuse_rounding(recipe: Recipe, model: Path) -> None:
    """Weights that shall be bf16 while they train must be bf16 in their files.

    Else the model that learns is another one than was measured before, from its first step on, and what is frozen in it
    would be another one in the end.

    Args:
        model: The base's directory.
    Raises:
        UserError: If they are of another type, or this PyTorch cannot sum their gradients in fp32.
    """
    import torch

    from holdfast.models.loading import own_dtype

    if recipe.train.weights != "bf16":
        return
    if (dtype := own_dtype(model)) != torch.bfloat16:
        raise UserError(
            f"train.weights: bf16, but the weights of {recipe.model} are {str(dtype).removeprefix('torch.')}, which it "
            "would round; leave train.weights out, or save the model in bf16 first (AutoModelForCausalLM."
            "from_pretrained(MODEL, dtype='bfloat16').save_pretrained(FOLDER)) and start from that"
        )
    if not hasattr(torch.Tensor, "grad_dtype"):
        raise UserError(f"train.weights: bf16 needs PyTorch 2.10 or later, this is {torch.__version__}; leave it out")


def check_prompt_lengths(tasks: Sequence[Task], chat: Chat, context: int | None) -> list[str]:
    """A line for every task with questions that do not fit into the model's context.

    Raises:
        UserError: If one holds a token that the model does not know, or none of a task's fits.
    """
    from holdfast.evaluation.tasks.episodes import start_prompts

    out = []
    for task in tasks:
        try_pictures(task, chat)
        if task.kind in ANSWERED and len(task.rows):
            prompts = start_prompts(task) if task.kind == "episodes" else [row.prompt for row in task.rows]
            lengths = [len(ids) for ids in chat.prompt_ids_many(prompts)]
            over = sum(length >= context for length in lengths) if context else 0
            if over == len(lengths):
                raise UserError(
                    f"{task.name}: none of its {over:,} prompts fits into the model's context of {context:,} tokens; "
                    "give shorter ones, or leave this task out"
                )
            if over:
                out.append(
                    f"{task.name}: {over:,} of {len(lengths):,} prompts do not fit into the model's context of "
                    f"{context:,} tokens (the longest has {max(lengths):,}): they get no answer and are left out of "
                    "all figures"
                )
    return out


def try_pictures(task: Task, chat: Chat) -> None:
    """See that the pictures of a task's rows can be read.

    Raises:
        UserError: If one cannot; the row is named.
    """
    for number, row in enumerate(task.rows, 1):
        if pictures_of(row.messages):
            try:
                chat.prompt_ids(row.prompt)
            except UserError as error:
                raise UserError(f"{row.place or f'{task.name}, row {number}'}: {error}") from error


def describe_decoding(model: Path) -> str:
    """A line when the model to be trained, in this directory, answers through more than its weights; "" otherwise."""
    from holdfast.generation.decoder import read_setup

    setup = read_setup(model)
    return f"model: training starts from weights alone, and they are the base: {setup.line}" if setup else ""


def check_inference(recipe: Recipe, sources: Sources, tasks: Sequence[Task]) -> list[str]:
    """See that the rows have what the inference method needs, and the tasks see it; a line of those that do not.

    Raises:
        UserError: If not.
    """
    from holdfast.evaluation.method_reach import describe_reach

    if recipe.inference is not None:
        targets = [row for task in tasks if task.role == "target" for row in task.rows]
        recipe.inference.check_rows(sources.train, targets)
    return describe_reach(recipe.inference, tasks)


def describe_weights_alone(user: str, model: Path) -> str:
    """A line when a judge or curator uses a model, in this directory, that answers through more; "" otherwise.

    Args:
        user: Who uses it, as messages begin with it.
    """
    from holdfast.generation.decoder import read_setup

    setup = read_setup(model)
    return f"{user}: of {model} the weights alone are used: {setup.line}" if setup else ""


def describe_engine(recipe: Recipe, model: Model, tasks: Sequence[Task]) -> list[str]:
    """What is to be said of how answers are sampled: by another engine than the recipe names, because that cannot run
    the model, or by the native one without the CUDA graphs it has on this device."""
    from holdfast.generation.native import NativeEngine
    from holdfast.generation.static_forward import describe_decline, static_lacks
    from holdfast.generation.supported_models import native_lacks

    samples = any(task.kind in ANSWERED for task in tasks) or any(curator.samples for curator in recipe.curate)
    samples = samples or recipe.credit is not None
    if not samples or recipe.sampling.engine == "transformers":
        return []
    if lacks := native_lacks(model):
        return [
            f"{model.config.model_type}: answers are sampled with transformers' generate, which is slower: the native "
            f"engine does not know {lacks}"
        ]
    reason = static_lacks(model) if model.device.type in NativeEngine.static_devices else ""
    return [describe_decline(reason)] if reason else []


def check_engine(kind: EngineSpec, name: str | None, say: Callable[[str], Any] = len) -> None:
    """See that an engine is installed, or that a server answers and knows the model.

    Args:
        say: Told in a line of servers that do not answer, where others do.
    Raises:
        UserError: If not.
    """
    if kind == "vllm":
        from holdfast.generation.vllm import require_vllm

        require_vllm()
    elif is_remote(kind):
        from holdfast.generation.pool.endpoints import find_model

        find_model((kind,) if isinstance(kind, str) else kind, name, say)
