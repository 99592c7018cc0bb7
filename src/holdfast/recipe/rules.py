"""What the parts of a recipe ask of each other, each rule a function that raises `ValueError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.axes.registry import name_of
from holdfast.recipe.task_entry import path_of_task

if TYPE_CHECKING:
    from holdfast.axes.curator import Curator
    from holdfast.recipe.schema import Common


def check_pairs_and_answers(recipe: Common) -> None:
    """What the last curator that writes answers or pairs leaves must be what the objective trains on."""
    from holdfast.data.row_shapes import takes_pairs

    objective, shape = recipe.objective, recipe.objective.row_shape()
    writers = [c for c in recipe.curate if writes_answers(c)]
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


def check_curator_order(recipe: Common) -> None:
    """What a curator had a model write must not be thrown away by one behind it: pairs, or answers to be paired."""
    holds_gold = recipe.objective.row_shape().name == "triple"  # trains on pairs and on the row's own answer
    for number, later in enumerate(recipe.curate):
        for former in recipe.curate[:number]:
            if text := find_waste(former, later, holds_gold):
                raise ValueError(f"curator {name_of(later)} {text.format(former=name_of(former))}")


def find_waste(former: Curator, later: Curator, holds_gold: bool) -> str:
    """What a curator throws away of what one before it wrote, which is called `{former}`; "": nothing.

    Args:
        holds_gold: Whether the objective trains on pairs and on the row's own answer.
    """
    if former.effect == "pair":
        if later.effect == "pair":
            return "writes pairs anew, and those of {former} would be thrown away; remove one of them"
        if writes_answers(later) and not (holds_gold and later.keeps_shape("triple")):
            return (
                "writes single answers behind the pairs of {former}, which nobody would train on; make them stages, "
                "one after the other, or remove one of them"
            )
    if later.effect == "pair" and former.answers_rows() and not (holds_gold or later.reads_answers()):
        mend = ", or let them compete (gold: true)" if "gold" in type(later).model_fields else ""
        return f"draws both answers of a pair anew, and those of {{former}} would be thrown away; remove it{mend}"
    return ""


def writes_answers(curator: Curator) -> bool:
    """Whether it puts answers that a model wrote into rows: not where it only chooses by them."""
    return curator.effect == "pair" or (curator.samples and curator.effect != "select")


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


def check_online(recipe: Common) -> None:
    """Online learning needs a credit, an objective of rollouts, and answers drawn from the policy as it is."""
    name, rollouts = name_of(recipe.objective), recipe.objective.needs_rollouts
    if recipe.credit is None:
        if rollouts:
            raise ValueError(
                f"objective {name} learns online from the model's own answers; say how they are credited: "
                "method: rloo, online_grpo, reinforce_pp or ppo"
            )
        is_default = recipe.online == type(recipe.online)()  # a dumped recipe has it too, with every default
        if recipe.environment is not None or not is_default:
            key = "environment" if recipe.environment is not None else "online"
            raise ValueError(
                f"{key} is of online learning, which needs a credit; choose method: rloo, online_grpo, "
                f"reinforce_pp or ppo, or remove {key}"
            )
        return
    credit, sampling, train = name_of(recipe.credit), recipe.sampling, recipe.train
    if not rollouts and (text := find_misfit(recipe)):
        raise ValueError(f"credit {credit} {text}; use objective policy_gradient, one of answers (sft) or pairs (dpo)")
    if recipe.credit.needs_values != recipe.objective.needs_values:
        mend = "objective.value_weight above 0" if recipe.credit.needs_values else "objective.value_weight to 0"
        raise ValueError(
            f"credit {credit} {'needs a' if recipe.credit.needs_values else 'uses no'} value head; set {mend}"
        )
    if rollouts and (sampling.temperature != 1 or sampling.top_p != 1 or sampling.top_k):
        raise ValueError(
            "online learning learns from samples of the model as it is; set sampling.temperature 1, top_p 1, top_k 0"
        )
    if sampling.engine not in ("native", "transformers"):
        raise ValueError(f"sampling.engine {sampling.engine} cannot follow weights that move; use native")
    if sampling.workers > 1:
        raise ValueError("sampling.workers are for curators, and cannot follow weights that move; leave them out")
    if any(curator.samples or curator.effect != "select" for curator in recipe.curate):
        raise ValueError(f"with credit {credit} the model writes its own answers; remove curate, or choose rows only")
    needs_base = recipe.online.divergence or recipe.objective.needs_reference
    if needs_base and not recipe.tuner.adapter:
        raise ValueError(
            "the divergence from the untouched model needs it beside the trained one, for answers that do "
            "not exist yet; train an adapter, which can be switched off (tuner: lora)"
        )
    check_group_size(recipe)
    check_round_steps(recipe)
    check_correction(recipe)
    for key in ("batch_tokens", "epochs"):
        if getattr(train, key) != type(train).model_fields[key].default:
            raise ValueError(f"train.{key} says nothing of online learning; online.rounds, prompts and n do: remove it")


def check_round_steps(recipe: Common) -> None:
    """The last step of a round must not learn from answers older than the recipe allows; what stops it needs one."""
    online = recipe.online
    oldest = online.updates * online.minibatches - 1
    if online.max_kl is not None and not oldest:
        raise ValueError(
            "online.max_kl leaves out further steps on a round's answers, but there is one step a round; set "
            "online.updates above 1, or remove max_kl"
        )
    if online.max_staleness is not None and oldest > online.max_staleness:
        raise ValueError(
            f"online.max_staleness is {online.max_staleness}, but with online.updates {online.updates} and minibatches "
            f"{online.minibatches} the last step of a round learns from answers {oldest} updates old; raise "
            "max_staleness, or lower updates or minibatches"
        )


def check_group_size(recipe: Common) -> None:
    """What compares the answers to a prompt needs two of them."""
    is_pair = recipe.objective.row_shape().name == "pair"
    if recipe.online.n == 1 and recipe.credit is not None and (recipe.credit.compares_group or is_pair):
        raise ValueError(
            f"credit {name_of(recipe.credit)} compares the answers to a prompt, and with online.n 1 there is one; set "
            "online.n to 2 or more, or choose credit reinforce_pp or ppo"
        )


def check_correction(recipe: Common) -> None:
    """What weighs advantages needs some, and what shapes the weights needs these."""
    online, name = recipe.online, name_of(recipe.objective)
    for key in ("correction_level", "correction_bound") if online.correction is None else ():
        if getattr(online, key) != type(online).model_fields[key].default:
            raise ValueError(f"online.{key} has no effect without a correction; set online.correction: truncate")
    if online.correction is not None and not recipe.objective.needs_rollouts:
        raise ValueError(f"online.correction weighs advantages, which objective {name} does not read; remove it")


def find_misfit(recipe: Common) -> str:
    """Why an objective that reads no advantages cannot learn from the answers that a credit chooses; "": it can."""
    objective, shape = recipe.objective, recipe.objective.row_shape().name
    name = name_of(objective)
    if shape not in ("answer", "pair") or any(column.default is None for column in objective.value_columns()):
        return f"gives advantages, which objective {name} does not read"
    if objective.has_precompute:
        return f"gives answers that do not exist yet, of which objective {name} would compute something before training"
    if recipe.environment is not None and shape == "pair" and recipe.environment.turns > 1:
        return f"gives episodes of {recipe.environment.turns} turns, but objective {name} compares single answers"
    return ""


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
    if path_of_task(evaluate.target) == "test" and recipe.data.test == 0:
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


def check_whole_stages(recipe: Common) -> None:
    """A stage starts from the model that the one before it leaves, which another stop would change."""
    if recipe.train.stop_at < 1 or any(stage.train.stop_at < 1 for stage in getattr(recipe, "stages", ())):
        raise ValueError("train.stop_at stops one training half way, and this recipe has stages; remove it")


STAGED_RULES = (check_evaluation, check_whole_stages)
"""What holds of a recipe with stages as a whole; each stage is looked at by itself."""
RULES = (
    check_pairs_and_answers, check_curator_order, check_objective, check_online, check_one_pass, check_weights,
    check_steps, check_evaluation,
)  # fmt: skip
