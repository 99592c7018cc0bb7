"""A model of a run as evaluation sees it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from holdfast.evaluation.subject import EvaluatedModel
from holdfast.pipeline.compiled_passes import compile_passes, describe_arithmetic
from holdfast.pipeline.phases import RunContext, build_cached_judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.axes.judge import Judge, JudgeRequest, Verdict
    from holdfast.axes.tuner import Tuner
    from holdfast.generation.decoder import Decoder
    from holdfast.models.loading import Model


def build_subject(work: RunContext, model: Model | Decoder, name: str, tuner: Tuner | None = None) -> EvaluatedModel:
    """A model, plain or as a decoder has it answer, ready to be measured; `name` is the fingerprint of its weights.

    On the probe it is compared with `work.reference`; where that is `None` it is the base, and becomes the reference.

    Args:
        tuner: Who trained it, and knows whether another model answers what is not the target.
    """
    from holdfast.generation.decoder import Decoder
    from holdfast.generation.factory import HERE

    def judge_answers(judge: Judge, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        return build_cached_judge(judge, work)(answers)

    kind, slots = work.recipe.sampling.engine, work.recipe.sampling.slots
    decoder = model if isinstance(model, Decoder) else Decoder(model)
    asks_again = bool(decoder.methods_changing("attempts"))
    elsewhere = decoder.model if tuner is None else tuner.model_elsewhere(decoder.model)
    other = None if elsewhere is decoder.model else replace(decoder, model=elsewhere)
    engine = decoder.build_engine(
        work.chat, kind if kind in HERE else "native", slots=slots, fingerprint=name, say=work.ui.write_once,
        judge=judge_answers, keep=work.journal.build_sample_fn, seed=work.recipe.train.seed, draft=work.draft,
    )  # fmt: skip
    policy = compile_passes(decoder.build_policy(work.chat), work.recipe.train.compile, work.ui.write_once)
    return EvaluatedModel(
        model=decoder.answer_fingerprint(name),
        extra=describe_arithmetic(policy) | ({"seed": work.recipe.train.seed} if asks_again else {}),
        chat=work.chat,
        draw=work.journal.build_sample_fn(engine),
        policy=policy,
        prompt=decoder.transform_prompt,
        choice_bias=decoder.choice_bias if decoder.methods else None,
        gives_judge=asks_again,
        describe_sources=decoder.describe_sources if decoder.methods else None,
        judge=judge_answers,
        count_passes=partial(decoder.count_passes, engine),
        reference=work.reference,
        elsewhere=None if other is None else build_subject(work, other, f"{name}/elsewhere"),
    )
