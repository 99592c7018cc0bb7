"""How many steps the arms of a comparison take, and of how many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.pipeline.phases import encode_rows, match_recipe_and_rows, rows_for_objective
from holdfast.recipe.loader import ResolvedRecipe, is_written
from holdfast.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Budget:
    """What every method gets: a number of steps, each of so many tokens."""

    steps: int
    batch_tokens: int

    def __str__(self) -> str:
        return f"{self.steps} steps of {self.batch_tokens:,} tokens"


def find_own_steps(arms: Mapping[str, ResolvedRecipe], recipe: Recipe) -> dict[str, int]:
    """The steps of arms that set `train.max_steps` themselves; of stages and rounds, which have their own, none."""
    return {
        label: steps
        for label, arm in arms.items()
        if (steps := arm.recipe.train.max_steps) and steps != recipe.train.max_steps
        if not arm.recipe.stages and arm.recipe.credit is None
    }


def take_epochs_of_arms(resolved_recipe: ResolvedRecipe, arms: Mapping[str, ResolvedRecipe]) -> Recipe:
    """The recipe with the epochs of its arms, where it says none itself and their objectives agree on a number."""
    recipe, epochs = resolved_recipe.recipe, {arm.recipe.train.epochs for arm in arms.values()}
    if len(epochs) > 1 or is_written(resolved_recipe.sources.get("train.epochs", "default")):
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": epochs.pop()})})


def compute_budget(recipe: Recipe, steps: int | None) -> Budget:
    """The recipe's steps and their size, derived where it leaves them open from the rows as they come.

    Args:
        steps: Wanted instead of the recipe's.
    """
    steps, tokens = steps or recipe.train.max_steps or None, recipe.train.batch_tokens
    if recipe.credit is not None:
        online = recipe.online
        return Budget(steps or online.steps, online.prompts * online.n * recipe.sampling.max_tokens)
    if steps is not None and tokens != "auto":
        return Budget(steps, tokens)
    from holdfast.data.batching.step_size import compute_step_size
    from holdfast.data.chat.settings import make_chat
    from holdfast.models.loading import load_context, load_tokenizer
    from holdfast.pipeline.sources import read_sources

    ignore = lambda text: None  # noqa: E731
    sources = read_sources(recipe, ignore, ignore)
    chat = make_chat(recipe.data, load_tokenizer(recipe.model), sources.train, sources.test)
    recipe, rows = match_recipe_and_rows(recipe, sources.train)
    table, _ = encode_rows(recipe, rows_for_objective(recipe, rows), chat, load_context(recipe.model))
    table, train = table.keep_first_sequences(recipe.objective.sequences_per_step()), recipe.train
    seed = train.order_seed
    size = compute_step_size(tokens, table, seed, recipe.objective.paper_settings.batch).tokens
    return Budget(steps or table.build_sampler(batch_tokens=size, seed=seed).count_steps(train.epochs), size)
