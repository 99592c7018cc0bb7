"""What the parts of a recipe ask of each other, each rule a function that raises `ValueError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.axes.registry import name_of

if TYPE_CHECKING:
    from holdfast.recipe.schema import Common


def check_pairs_and_answers(recipe: Common) -> None:
    """What the last curator that writes answers or pairs leaves must be what the objective trains on."""
    from holdfast.data.row_shapes import takes_pairs

    objective, shape = recipe.objective, recipe.objective.row_shape()
    writers = [c for c in recipe.curate if c.samples or c.effect == "pair"]
    if not writers:
        return
    writer, pairs = name_of(writers[-1]), writers[-1].effect == "pair"
    name, needs = name_of(objective), {column.name for column in objective.value_columns() if column.default is None}
    fits = (
        takes_pairs(shape, objective.value_columns())
        if pairs
        else not shape.needs or writers[-1].keeps_shape(shape.name)
    )
    if not fits:
        mend = MENDS.get("pairs" if pairs else shape.name, "").format(name=name)
        raise ValueError(
            f"objective {name} trains on {shape.needs or 'answers'}, but curator {writer} writes "
            f"{'pairs' if pairs else 'single answers'}; {mend}make them stages, one after the other "
            f"(stages: [{{curate: {writer}}}, {{objective: {name}}}]), or remove one of them"
        )
    missing = sorted(needs - ({"label", "score", "score_chosen", "score_rejected", "scores"} if pairs else set()))
    if missing:
        raise ValueError(
            f"objective {name} needs a {missing[0]} of every {'pair' if pairs else 'answer'}, but "
            f"curator {writer} writes {'pairs' if pairs else 'answers'} without; make them stages, one after the "
            "other, or remove one of them"
        )


MENDS = {
    "pair": "let curator pairs write them (curate: pairs), ",
    "triple": "use a curator that rewrites the gold answer of each row (s3ft, ssr, sdft), ",
    "group": "let curator pairs write them (curate: {{name: pairs, n: 8, temperature: 1}}), ",
    "pairs": "choose an objective of pairs, such as dpo, ",
}
"""The nearest recipe that works, by what the objective needs, or of curator pairs."""


def check_objective(recipe: Common) -> None:
    """An objective must not turn into another one for want of a setting."""
    if text := recipe.objective.find_recipe_problem(recipe.curate, recipe.sampling):
        raise ValueError(f"objective {name_of(recipe.objective)} {text}")


def check_one_pass(recipe: Common) -> None:
    """An optimizer that updates inside the backward pass takes a step's rows in one pass."""
    train = recipe.train
    tokens = train.batch_tokens
    open_size = train.micro_tokens is not None and (tokens == "auto" or train.micro_tokens < tokens)
    if recipe.optimizer.in_backward and open_size:
        raise ValueError(
            f"optimizer {name_of(recipe.optimizer)} updates inside the backward pass and cannot accumulate; remove "
            "train.micro_tokens, or set train.batch_tokens to the same"
        )


def check_weights(recipe: Common) -> None:
    """Weights in bf16 are computed with in bf16, and moved by an optimizer that loses no small step."""
    if recipe.train.weights != "bf16":
        return
    if recipe.train.precision == "fp32":
        raise ValueError("train.weights bf16 computes in bf16, but train.precision is fp32; remove one of them")
    if not recipe.optimizer.keeps_masters:
        raise ValueError(
            f"train.weights bf16 needs an optimizer that keeps what rounding takes from a step, which "
            f"{name_of(recipe.optimizer)} does not; use adamw, or remove train.weights"
        )


def check_steps(recipe: Common) -> None:
    """A run without a step needs a method that does without; and a method that trains nothing has no steps."""
    from holdfast.recipe.shorthand import trains_nothing

    steps = recipe.train.max_steps
    if trains_nothing(recipe.method) and steps != 0:
        raise ValueError(
            f"method {recipe.method} trains nothing, but train.max_steps is {steps}; say method: sft+{recipe.method} "
            "to train before it, or train.max_steps: 0"
        )
    if steps == 0 and (recipe.inference is None or recipe.inference.needs_training()):
        what = (
            "there is no inference method"
            if recipe.inference is None
            else (f"inference {name_of(recipe.inference)} needs a tuned model")
        )
        raise ValueError(f"train.max_steps is 0, so that nothing is trained, but {what}; give train.max_steps steps")


def check_evaluation(recipe: Common) -> None:
    """What the evaluation is asked for must exist."""
    evaluate, gate = recipe.evaluate, recipe.evaluate.gate
    if evaluate.target == "test" and recipe.data.test == 0:
        raise ValueError(
            "evaluate.target is test, but data.test is 0; hold out some rows, or set evaluate.target: none"
        )
    if evaluate.target == "none" and gate.min_gain is not None:
        raise ValueError("evaluate.gate.min_gain needs a target, but evaluate.target is none")
    for name, needs_evaluations in (
        ("keep: best", recipe.train.keep == "best"),
        ("patience", recipe.train.patience is not None),
    ):
        if needs_evaluations and evaluate.every == 0:
            raise ValueError(f"train.{name} needs evaluations during training; set evaluate.every above 0")
    for name, limit in (("max_loss", gate.max_loss), ("max_bits", gate.max_bits), ("max_kl", gate.max_kl)):
        if not evaluate.keep and limit is not None:
            raise ValueError(f"evaluate.gate.{name} needs something to keep, but evaluate.keep is empty")


STAGED_RULES = (check_evaluation,)
"""What holds of a recipe with stages as a whole; each stage is looked at by itself."""
RULES = (check_pairs_and_answers, check_objective, check_one_pass, check_weights, check_steps, check_evaluation)
