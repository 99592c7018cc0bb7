"""Drift: where predictions, representations and weights moved, task by task, layer by layer, token by token."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.analysis import Analysis, AnalysisContext, AnalysisSection, AnswerExample
from holdfast.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.axes.analysis import AnalysedTask
    from holdfast.data.batching.batches import EncodedSequence


class Drift(Analysis):
    """How far predictions, states and weights moved, by task, layer, token. [Merchant et al. 2020, arXiv 2004.14448]

    What it does: reads both models on the base's answers to every task (on the rows' own where nothing was sampled).
    Per task: KL(base || tuned) in nats a token, and the share of tokens at which both would say the same. Per task and
    layer: linear CKA of the hidden states that predict the answer's tokens, 1 where one is a rotation of the other.
    Per token: how much of all divergence stands at it. Per matrix: the distance of the weights, relative to their size
    (an adapter is folded in; of one that cannot be, this part is left out, and said). Answers are shown with the
    first token at which the models part most.

    When it helps: to see whether training moved what it should not: divergence on kept tasks goes with forgetting, and
    layers whose CKA fell are those to freeze, to spare or to dial back.

    When it fails: the base's answers are read, so it is about what the base would have said; and a CKA near 1 may hide
    a small direction that matters. With fewer than some tens of tokens the unbiased CKA scatters and may leave [0, 1].

    Formulas: KL = sum_v p(v) (log p(v) - log q(v)), over the whole vocabulary, averaged over the tokens of answers; CKA
    with the unbiased HSIC (Kornblith et al. 2019, arXiv 1905.00414); ||W - W0|| / ||W0||, Frobenius.
    """

    paper: ClassVar[str] = "Merchant et al. 2020, arXiv 2004.14448; Kornblith et al. 2019, arXiv 1905.00414"

    items: int = Field(32, ge=1, description="How many answers of each task are read.")
    examples: int = Field(2, ge=0, description="How many answers of each task are shown.")
    tokens: int = Field(12, ge=1, description="How many tokens are listed, those with most divergence first.")

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        from holdfast.methods.analyses.drift_section import build_section

        drifts = [drift for task in context.tasks if (drift := self.measure_task(task, context)) is not None]
        if not drifts:
            raise UserError("no task has an answer to read: its files are gone, or nothing was answered")
        return build_section(drifts, *measure_matrices(context), context.chat, self.tokens)

    def measure_task(self, task: AnalysedTask, context: AnalysisContext) -> TaskDrift | None:
        """How far a task moved; `None` where there is no answer to read."""
        from holdfast.methods.analyses.answer_tokens import encode_answers
        from holdfast.methods.analyses.similarity import compute_cka
        from holdfast.models.layer_states import collect_divergence, collect_layer_states

        answers, sequences = encode_answers(task, context.chat, self.items)
        if not sequences:
            return None
        pad_id = context.chat.pad_id
        divergence, before, after = collect_divergence(context.base, context.tuned, sequences, pad_id)  # [N] each
        states = [
            collect_layer_states(policy, cut_labels(sequences, MOST_STATES), pad_id)[:, :MOST_STATES].numpy()
            for policy in (context.base, context.tuned)
        ]  # [layers + 1, n, D]
        drift = TaskDrift(task.name, task.role, float(divergence.mean()), float((before == after).float().mean()))
        if states[0].shape[1] >= FEWEST_STATES:
            drift.cka = [compute_cka(x, y) for x, y in zip(*states, strict=True)]
        start, tuned = 0, {answer.id: answer.response for answer in task.tuned}
        for answer, sequence in zip(answers, sequences, strict=True):
            labels = [int(i) for i, on in zip(sequence.ids[1:], sequence.label_mask[1:], strict=True) if on]
            own = slice(start, start + len(labels))
            for token, nats in zip(labels, divergence[own].tolist(), strict=True):
                drift.by_token[token].append(nats)
            at = start + int(divergence[own].argmax())
            start += len(labels)
            words = [context.chat.text_of([int(t)]) for t in (before[at], after[at])]
            note = f"{task.name}: {float(divergence[at]):.2f} nats where the base would say {words[0]!r} and the tuned "
            note += f"model {words[1]!r}"
            group = f"Where the models part most: {task.name}"
            example = AnswerExample(
                group,
                answer.id,
                answer.prompt,
                answer.reference,
                answer.response,
                tuned.get(answer.id, ""),
                None,
                note,
            )
            drift.examples.append((float(divergence[at]), example))
        drift.examples = sorted(drift.examples, key=lambda one: -one[0])[: self.examples]
        return drift


MOST_STATES, FEWEST_STATES = 400, 8
"""Tokens of a task whose states are compared; below the fewest CKA says nothing."""


def cut_labels(sequences: Sequence[EncodedSequence], most: int) -> Sequence[EncodedSequence]:
    """The first sequences that have so many labels together, or all: of the rest no state is asked for."""
    counts = accumulate(int(sequence.label_mask[1:].sum()) for sequence in sequences)
    return sequences[: next((place for place, count in enumerate(counts, 1) if count >= most), len(sequences))]


@dataclass
class TaskDrift:
    """How far a task moved: mean nats, share of equal tokens, CKA by layer, nats by token, and what is shown."""

    name: str
    role: str
    kl: float
    agreement: float
    cka: list[float] = field(default_factory=list)
    by_token: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    examples: list[tuple[float, AnswerExample]] = field(default_factory=list)


def measure_matrices(context: AnalysisContext) -> tuple[dict[str, float], str]:
    """The relative distance of every matrix that is in a layer, by name, and why there is none."""
    from holdfast.models.weight_change import measure_change

    try:
        tuned: Any = context.plain_tuned.causal
    except UserError as error:
        return {}, f"Weights were not compared: {error}."
    after = dict(tuned.named_parameters())
    distances = {}
    for name, before in context.base.causal.named_parameters():
        if before.ndim == 2 and name in after and after[name].shape == before.shape:
            change, size = measure_change(before, after[name])
            distances[name.removesuffix(".weight")] = math.sqrt(change / max(size, 1e-60))
    return distances, ""
