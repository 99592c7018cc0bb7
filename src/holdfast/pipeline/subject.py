"""A model of a run as evaluation sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.evaluation.subject import Subject
from holdfast.pipeline.phases import Work, judging

if TYPE_CHECKING:
    from holdfast.generation.decoder import Decoder
    from holdfast.models.loading import Model


def subject_of(work: Work, model: Model | Decoder, name: str) -> Subject:
    """A model, plain or as a decoder has it answer, ready to be measured; `name` is the fingerprint of its weights.

    On the probe it is compared with `work.reference`; where that is `None` it is the base, and becomes the reference.
    """
    from holdfast.evaluation.subject import precision_of
    from holdfast.generation.decoder import Decoder
    from holdfast.generation.factory import HERE

    kind, slots = work.recipe.sampling.engine, work.recipe.sampling.slots
    decoder = model if isinstance(model, Decoder) else Decoder(model)
    engine = decoder.engine(work.chat, kind if kind in HERE else "native", slots=slots, fingerprint=name)
    return Subject(
        model=decoder.fingerprint(name),
        extra=precision_of(decoder.model),
        chat=work.chat,
        draw=work.journal.draw(engine),
        policy=decoder.policy(),
        prompt=decoder.prompt,
        judge=lambda judge, answers: judging(judge, work)(answers),
        reference=work.reference,
    )
