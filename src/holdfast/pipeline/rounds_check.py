"""What `holdfast check` shows of online learning: the plan of its rounds, and the first episode with its rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from holdfast.axes.engine import Request, Sample
from holdfast.axes.environment import Episode, begin_or_refuse, play_episodes
from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.models.loading import tuned_context_length
from holdfast.pipeline.online import choose_environment, plan_rounds, select_playable_rows
from holdfast.pipeline.phases import sampling_params
from holdfast.training.rounds import OUTGROWN, encode_turn

if TYPE_CHECKING:
    from holdfast.axes.environment import Environment
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Row, Rows
    from holdfast.models.loading import LoadedModel
    from holdfast.pipeline.sources import Sources
    from holdfast.recipe.loader import ResolvedRecipe
    from holdfast.recipe.schema import Recipe
    from holdfast.training.plan import TrainingPlan


def describe_rounds(
    resolved_recipe: ResolvedRecipe, base: LoadedModel, chat: Chat, sources: Sources
) -> tuple[TokenTable, TableReport, TrainingPlan, list[tuple[str, EncodedSequence]]]:
    """A round of the longest answers as a table, what becomes of the rows, the plan, and the first episode's turns.

    Raises:
        UserError: If there is no reward, or no row can be played.
    """
    recipe = resolved_recipe.recipe
    environment = choose_environment(recipe, sources.judge)
    context = tuned_context_length(base.model.config, recipe.tuner)
    rows, report = select_playable_rows(sources.train, environment, chat, context, recipe.sampling.max_tokens)
    plan = plan_rounds(recipe, base.model, len(rows), resolved_recipe.sources)
    table = TokenTable.from_sequences(imagine_answers(rows, environment, chat, recipe), fingerprint="rounds")
    return table, report, plan, play_first_episode(rows[0], environment, base, chat, recipe)


def imagine_answers(rows: Rows, environment: Environment, chat: Chat, recipe: Recipe) -> list[EncodedSequence]:
    """The prompts of the first round with answers as long as may be: what a round can cost."""
    answer = [chat.pad_id] * recipe.sampling.max_tokens
    first_rows = [rows[i] for i in range(min(len(rows), recipe.online.prompts))]
    prompts = [begin_or_refuse(environment, row, 0, row.describe_row(i)) for i, row in enumerate(first_rows, 1)]
    return [
        encode_turn(chat.prompt_ids(prompt), answer, number, chat.pictures.list_pictures(prompt))
        for number, prompt in enumerate(prompts)
    ]


def play_first_episode(
    row: Row, environment: Environment, base: LoadedModel, chat: Chat, recipe: Recipe
) -> list[tuple[str, EncodedSequence]]:
    """Each turn of an episode of the untouched model: what was rewarded with how much, and its tokens."""
    from holdfast.generation.factory import build_local_engine, build_sample_fn

    draw = build_sample_fn(build_local_engine(base.model, chat, recipe.sampling.engine, fingerprint="check"))
    params = sampling_params(recipe).model_copy(update={"n": 1, "keep_ids": True})
    samples: dict[str, Sample] = {}

    def answer_episodes(episodes: list[Episode]) -> list[str]:
        drawn_samples = draw([Request(episode.turn_key, episode.messages) for episode in episodes], params)
        samples.update({key: each[0] for key, each in drawn_samples.items()})
        return [episode.take_answer(samples[episode.turn_key]) for episode in episodes]

    (episode,) = play_episodes(environment, [row], answer_episodes, seed=recipe.train.seed)
    turns = []
    for number, turn in enumerate(episode.turns):
        ids, pictures = samples[episode.name_turn(number)].ids, chat.pictures.list_pictures(turn.prompt)
        sequence = encode_turn(chat.prompt_ids(turn.prompt), ids, number, pictures)
        note = f" ({turn.note})" if turn.note else ""
        turns.append((f"turn {number + 1}, reward {turn.reward:g}{note}", sequence))
    ends = {f"the environment broke: {episode.failure}": episode.failure, "cut: " + OUTGROWN: episode.outgrown}
    nothing = np.zeros(0, dtype=np.int32)
    turns += [(text, EncodedSequence(nothing, nothing == 1, 0)) for text, is_so in ends.items() if is_so]
    return turns
