"""Online learning in a run: the rows are prompts, and the model's own answers what it is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.axes.breakdowns import describe_false_start
from holdfast.axes.environment import Environment, begin_episode
from holdfast.axes.registry import find_method, name_of
from holdfast.data.pictures.references import pictures_of
from holdfast.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.axes.engine import Request, Sample, SampleFn, SamplingParams
    from holdfast.axes.judge import Judge
    from holdfast.core.progress import Progress
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Rows
    from holdfast.models.policy import Policy
    from holdfast.pipeline.phases import RunContext
    from holdfast.recipe.loader import ResolvedRecipe
    from holdfast.recipe.schema import Recipe
    from holdfast.training.plan import TrainingPlan
    from holdfast.training.rollouts import RolloutSource

SHOWN = 20
"""How often the answers of a round are counted on the live line."""


def prepare_rounds(
    resolved_recipe: ResolvedRecipe, work: RunContext, rows: Rows
) -> tuple[RolloutSource, TableReport, TrainingPlan, Callable[[int], str]]:
    """What plays and credits the rounds, what became of the rows, the plan, and what an error calls a sequence."""
    from holdfast.models.loading import tuned_context_length

    recipe = work.recipe
    environment = choose_environment(recipe, work.sources.judge)
    context = tuned_context_length(work.base.model.config, recipe.tuner)
    playable_rows, report = select_playable_rows(rows, environment, work.chat, context, recipe.sampling.max_tokens)
    plan = plan_rounds(recipe, work.base.model, len(playable_rows), resolved_recipe.sources)
    return build_rollout_source(work, playable_rows, environment), report, plan, "answer {} of the round".format


def choose_environment(recipe: Recipe, judge: Judge | None) -> Environment:
    """The recipe's environment; without one its judge, of one turn.

    Raises:
        UserError: If there is neither.
    """
    if recipe.environment is not None:
        return recipe.environment
    if judge is None:
        raise UserError(
            "online learning needs rewards, and the rows' references are free text: name a judge, or an environment"
        )
    environment = find_method("environments", "judged").model_validate({"judge": judge})
    assert isinstance(environment, Environment)
    return environment


def select_playable_rows(
    rows: Rows, environment: Environment, chat: Chat, context: int | None, longest: int
) -> tuple[Rows, TableReport]:
    """The rows that an environment takes and whose first prompt leaves room for an answer, and what became of all.

    Raises:
        UserError: If it takes none, or breaks on one, or a picture of one cannot be read.
    """
    import numpy as np

    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.rows import RowSelection

    report = TableReport(rows=len(rows), context=context, max_length=context or 0, are_prompts=True)
    indices, lengths, first_problem = list[int](), list[int](), ""
    for index, row in enumerate(rows):
        try:
            _, messages = begin_episode(environment, row, 0)
        except UserError as error:
            first_problem = first_problem or f"{row.describe_place(index + 1)}: {error}"
            report.record_drop(index + 1, row, f"environment {name_of(environment)} does not take them")
            continue
        except Exception as error:  # left out by a clock or a network, rows would be others the next time
            raise describe_false_start(environment, row.describe_row(index + 1), error) from error
        try:
            ids = chat.prompt_ids(messages)
        except UserError as error:
            raise UserError(f"{row.describe_place(index + 1)}: {error}") from error
        tokens, pictures = len(ids), pictures_of(messages)
        if context is not None and tokens + longest > context:
            reason = f"the prompt leaves no room for an answer of {longest:,} tokens"
            first_problem = first_problem or (
                f"{row.describe_place(index + 1)}: {reason} (sampling.max_tokens): it has {tokens:,}, and the model's "
                f"context {context:,}; shorten it, or lower max_tokens"
            )
            report.record_drop(index + 1, row, reason)
            continue
        indices.append(index)
        lengths.append(tokens)
        if pictures and chat.pictures.processor is not None:
            report.pictures += len(pictures)
            report.picture_tokens += ids.count(chat.pictures.processor.image_token_id)
    report.kept, report.tokens = len(indices), sum(lengths)
    if not indices:
        raise UserError(f"no row can be played: {first_problem or 'there are none'}")
    report.record_lengths(np.array(lengths))
    return RowSelection(rows, indices, lambda row: row), report


def build_rollout_source(work: RunContext, rows: Rows, environment: Environment) -> RolloutSource:
    """Rounds that are played through the run's journal, by the policy as it is then."""
    from holdfast.generation.factory import build_local_engine
    from holdfast.pipeline.phases import sampling_params
    from holdfast.training.rollouts import RolloutSource
    from holdfast.training.rounds import RoundPlan

    recipe, engines = work.recipe, dict[str, Any]()
    assert recipe.credit is not None

    def build_round_sampler(policy: Policy, name: str) -> SampleFn:
        fingerprint = f"{work.folder.state['recipe']}/{name}"
        if not engines:
            engines["engine"] = build_local_engine(
                policy.model, work.chat, recipe.sampling.engine, slots=recipe.sampling.slots, fingerprint=fingerprint,
                say=work.ui.write_once, draft=work.draft,
            )  # fmt: skip
        engines["engine"].update_model(policy.model, fingerprint)
        return show_answers(work.journal.build_sample_fn(engines["engine"], together=True), work.ui)

    online = recipe.online
    plan = RoundPlan(
        online.prompts, online.n, online.updates, online.minibatches, online.drop_equal, online.divergence,
        online.refill, online.max_kl, online.overlong, online.max_mismatch, online.correction, online.correction_level,
        online.correction_bound, recipe.train.seeds.order,
    )  # fmt: skip
    return RolloutSource(
        rows, environment, recipe.credit, recipe.objective, plan=plan, sampling=sampling_params(recipe),
        build_sampler=build_round_sampler, chat=work.chat, seed=recipe.train.seed, folder=work.folder.path / "cache",
        say=work.ui.warn, record=work.journal,
    )  # fmt: skip


def show_answers(draw: SampleFn, ui: Progress) -> SampleFn:
    """The same sampling, with the answers counted on the line of the training while they are drawn."""

    def draw_visibly(
        requests: Sequence[Request], params: SamplingParams, on_sample: Callable[[Sample], Any] | None = None
    ) -> dict[str, list[Sample]]:
        count = 0

        def count_answer(sample: Sample) -> None:
            nonlocal count
            count += 1
            if count % max(1, len(requests) // SHOWN) == 0:
                ui.advance(0, answers=f"{count:,} of {len(requests):,}")
            if on_sample:
                on_sample(sample)

        samples = draw(requests, params, count_answer)
        ui.figures.pop("answers", None)
        return samples

    return draw_visibly


def plan_rounds(recipe: Recipe, model: Any, rows: int, sources: Mapping[str, str]) -> TrainingPlan:
    """What the rounds come to, in words."""
    from holdfast.data.batching.step_size import StepSize
    from holdfast.training.plan import TrainingPlan, describe_origin

    online = recipe.online
    episodes = online.prompts * online.n
    tokens = episodes * recipe.sampling.max_tokens // online.minibatches
    size = StepSize(tokens, False, episodes / online.minibatches, tokens / max(1, episodes), 1, 0, 0)
    source = sources.get("optimizer.learning_rate", "default")
    rate = f"{recipe.optimizer.learning_rate:g} ({describe_origin(source, recipe)})"
    warnings = [*recipe.objective.list_warnings(recipe.optimizer), *recipe.tuner.list_warnings(model)]
    if online.prompts > rows:
        warnings.append(f"online.prompts {online.prompts:,} is more than the {rows:,} rows: a round holds some twice")
    steps = online.updates * online.minibatches
    rounds = (
        f"{online.rounds:,} rounds of {online.prompts:,} prompts with {online.n:,} episodes each, "
        f"{steps:,} step{'' if steps == 1 else 's'} a round"
    )
    remarks = tuple(recipe.tuner.list_notes(model))
    count = online.steps if recipe.train.max_steps is None else recipe.train.max_steps
    return TrainingPlan(count, size, rate, "", tuple(warnings), remarks, rounds)
