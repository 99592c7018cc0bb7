"""The Python API: what the verbs of the command line do, with objects from memory, quiet unless told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.progress import Progress
from holdfast.core.quiet import quiet_libraries
from holdfast.recipe.in_memory import name_objects, store_model

if TYPE_CHECKING:
    from holdfast.axes.inference import Inference
    from holdfast.axes.judge import Judge
    from holdfast.models.loading import LoadedModel
    from holdfast.pipeline.results import RunResult
    from holdfast.recipe.loader import ResolvedRecipe
    from holdfast.recipe.schema import Recipe

    AnyRecipe = ResolvedRecipe | Recipe | dict[str, Any] | str | Path


@contextmanager
def _open_progress(progress: bool, ui: Progress | None) -> Iterator[Progress]:
    """The voice of a call, and silence of everything else."""
    with quiet_libraries(), ui or (Progress.for_terminal() if progress else Progress.create_silent()) as voice:
        yield voice


def train(
    recipe: AnyRecipe,
    *,
    tokenizer: Any = None,
    progress: bool = False,
    restart: bool = False,
    ui: Progress | None = None,
) -> RunResult:
    """Curate, train, measure before and after, and write the report. Killed and repeated, it goes on where it was.

    Args:
        recipe: A recipe, its mapping, or the path of its file. In a mapping `model` may be a transformers model, and
            `data.train`, `data.test` and `data.replay.path` a list of dictionaries, a `datasets.Dataset` or a frame.
        tokenizer: Of a model that is given as an object.
        progress: Show what is going on, as the command line does.
        restart: Begin anew where the output holds a run, which is kept as `OUTPUT.old-1`.
        ui: Where progress is shown instead.
    Raises:
        UserError: If the recipe or the data cannot be used; nothing is written then.
        RunError: If training had to stop; the same call goes on from the last checkpoint.
        GateRefused: If a stage with a gate of its own did not pass it; the stages after it have not run.
    """
    from holdfast.pipeline.train import train as run_train

    with _open_progress(progress, ui) as voice:
        return run_train(name_objects(recipe, tokenizer), ui=voice, restart=restart)


def check(
    recipe: AnyRecipe,
    *,
    tokenizer: Any = None,
    progress: bool = False,
    ui: Progress | None = None,
    judge: bool = False,
) -> dict[str, Any]:
    """Read everything, validate every row, and describe the plan; trains nothing.

    Args:
        recipe, tokenizer, progress, ui: As for `train`.
        judge: Also try the judge on the answers of the first rows.
    Returns:
        `rows`, `lengths`, `examples`, `plan`, `estimate` and `warnings`; of a recipe with stages `stages`.
    """
    from holdfast.pipeline.check import check as run_check

    with _open_progress(progress, ui) as voice:
        return run_check(name_objects(recipe, tokenizer), ui=voice, judge=judge)


def curate(
    recipe: AnyRecipe,
    *,
    out: str | Path | None = None,
    tokenizer: Any = None,
    progress: bool = False,
    ui: Progress | None = None,
) -> Path:
    """Do everything up to training: the file of rows that would be trained on.

    Args:
        recipe, tokenizer, progress, ui: As for `train`.
        out: A copy of it; default: only `curated.jsonl` in the run's directory.
    """
    from holdfast.pipeline.curate import curate_only

    with _open_progress(progress, ui) as voice:
        return curate_only(name_objects(recipe, tokenizer), out=out, ui=voice)


def compare(
    recipe: AnyRecipe,
    methods: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    seeds: int | Sequence[int] = 1,
    out: str | Path | None = None,
    steps: int | None = None,
    learning_rates: Sequence[float] = (),
    tokenizer: Any = None,
    progress: bool = False,
    restart: bool = False,
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Run every method with every seed and write `compare.json` and `report.html`.

    Args:
        recipe, tokenizer, progress, ui: As for `train`; what the methods have in common.
        methods: Names (`s3ft`, `s3ft+half`), or labels with the overrides that make them: `{"dial": ["tuner=half"]}`.
        seeds: How many, or which.
        out: Directory; default as on the command line. Finished runs in it are not repeated.
        steps: Optimizer steps of every run; default: what the recipe's epochs take on the untouched rows.
        learning_rates: Run every method at each of these, and compare what is lost where all have gained the same.
        restart: Begin anew where the directory holds a comparison, which is kept as `DIRECTORY.old-1`.
    Returns:
        The content of `compare.json`, and its `directory`.
    """
    from holdfast.pipeline.compare import compare as run_compare

    with _open_progress(progress, ui) as voice:
        common_recipe = name_objects(recipe, tokenizer)
        return run_compare(
            common_recipe,
            methods,
            seeds=seeds,
            out=out,
            steps=steps,
            learning_rates=learning_rates,
            ui=voice,
            restart=restart,
        )


def evaluate(
    model: Any,
    *,
    against: Any = None,
    tasks: list[str] | None = None,
    judge: Judge | None = None,
    inference: Inference | str | dict[str, Any] | None = None,
    items: int = 200,
    max_tokens: int = 128,
    max_thinking_tokens: int = 1024,
    max_loss: float | None = None,
    max_bits: float | None = None,
    out: str | Path | None = None,
    tokenizer: Any = None,
    progress: bool = False,
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model, and with `against` the difference from another on the same items.

    Args:
        model, against: Names as in a recipe, finished runs, or transformers models.
        tasks: Names as in `evaluate.keep`; default: a run's own tasks, or all skills for a laboratory model.
        judge: For files; default: found from the rows.
        inference: A method, its name or its mapping, through which the model answers; default for `against`: itself
            without it.
        max_tokens, max_thinking_tokens: Longest answer, and longest thought before it.
        max_loss, max_bits: Gates: points on the mean drop, per cent on the mean rise of the texts' bits.
        out: Directory for items and report.
        tokenizer: Of models that are given as objects.
        progress, ui: As for `train`.
    Returns:
        The parts of `report.json` that come from measuring.
    """
    from holdfast.pipeline.evaluate import evaluate as run_evaluate
    from holdfast.recipe.choices import choose_method

    def resolve_model(one: Any) -> Any:
        return store_model(getattr(one, "path", one), tokenizer if hasattr(one, "save_pretrained") else None)

    with _open_progress(progress, ui) as voice:
        return run_evaluate(
            str(resolve_model(model)),
            against=None if against is None else str(resolve_model(against)),
            tasks=tasks, judge=judge, inference=choose_method("inference", inference),
            items=items, max_tokens=max_tokens, max_thinking_tokens=max_thinking_tokens,
            max_loss=max_loss, max_bits=max_bits, out=out, ui=voice,
        )  # fmt: skip


def load(name: str | Path) -> LoadedModel:
    """Load what a run trained, whichever tuner stored it, with its tokenizer.

    Args:
        name: A run or model directory, the directory of an adapter, whose base is loaded too, or a name on the hub.
    Returns:
        With `model` and `tokenizer`; the model is in eval mode on the accelerator there is.
    Raises:
        UserError: If there is no such model, or an adapter does not belong to the base that is there.
    """
    from holdfast.models.loading import load_model

    with quiet_libraries():
        return load_model(name)
