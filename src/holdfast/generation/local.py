"""What the engines that sample from a model in this process share: prompts and their room, budgets of thoughts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.core.progress import ignore_call
from holdfast.data.pictures.references import pictures_of
from holdfast.data.rows import Message
from holdfast.data.thoughts import MARKS
from holdfast.generation.continuous_batch import PendingSample
from holdfast.generation.journal import sample_seed
from holdfast.generation.prompt_ids import opening_of, prompt_ids
from holdfast.generation.thought_budget import ThoughtBudget, ThoughtState
from holdfast.models.loading import context_length
from holdfast.models.virtual_tokens import virtual_tokens_of

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.generation.joint_forward import LogitMixture
    from holdfast.models.loading import Model


class LocalEngine:
    """A model in this process and its chat.

    Args:
        model: A causal language model of `transformers`; its device is used as it is.
        chat: Renders prompts and knows what ends a turn.
        slots: Sequences decoded together.
        fingerprint: Of the model's weights.
        progress: Called with the numbers of tokens sampled, as they are.
        on_text: Called with the text so far of a sequence that decodes alone.
        mixture: Models whose logits are read beside its own, and how they become one.
        say: Told in a line which part of the engine cannot be used, and why; the same line may come again.
    """

    name: ClassVar[str]
    """Of the engine, for fingerprints."""

    def __init__(
        self,
        model: Model,
        chat: Chat,
        *,
        slots: int = 128,
        fingerprint: str,
        progress: Callable[[int], Any] | None = None,
        on_text: Callable[[str], Any] | None = None,
        mixture: LogitMixture | None = None,
        say: Callable[[str], Any] = ignore_call,
    ) -> None:
        for each in (model, *(mixture.others.values() if mixture else ())):
            self.refuse_unsupported(each)
        self.model: Any
        self.chat, self.slots, self.progress, self.on_text = chat, slots, progress, on_text
        self.counts: Counter[str] = Counter()
        self.mixture, self.say = mixture, say
        self.update_model(model, fingerprint)

    def refuse_unsupported(self, model: Model) -> None:
        """See that the engine can run a model.

        Raises:
            UserError: With what it cannot.
        """

    def update_model(self, model: Model, fingerprint: str) -> None:
        """Sample from these weights from now on: another model of the family, or the same one after it moved.

        Args:
            fingerprint: Of the weights as they are now; samples of others must not be taken for theirs.
        """
        self.model, self.virtual = model, virtual_tokens_of(model)
        self._fingerprint = f"{self.name}:{fingerprint}:{self.chat.fingerprint}"
        if model.dtype != torch.float32:  # answers in another precision are others
            self._fingerprint += f":{str(model.dtype).removeprefix('torch.')}"
        others = self.mixture.others.values() if self.mixture else ()
        contexts = [context_length(model.config, self.virtual), *(context_length(other.config) for other in others)]
        self.context = min((context for context in contexts if context is not None), default=None)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def queue_samples(
        self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams
    ) -> tuple[list[PendingSample], list[Sample]]:
        """The samples asked for, and those there already are: empty ones of prompts that do not fit the context."""
        pending: list[PendingSample] = []
        over: list[Sample] = []
        prompts = prompt_ids(self.chat, [request for request, _ in requests]) if requests else []
        budget = self.build_thought_budget(params)
        for (request, indexes), prompt in zip(requests, prompts, strict=True):
            opening = opening_of(self.chat, request)
            shows = request.messages if pictures_of(request.messages) else ()
            queue = self.queue_prompt(prompt, request.key, indexes, params, opening=opening, budget=budget, shows=shows)
            pending += queue
            if not queue:
                self.counts["too long"] += len(indexes)
                over += [Sample(request.key, index, "", "length", 0) for index in indexes]
        return pending, over

    def queue_prompt(
        self,
        prompt: list[int],
        key: str,
        indexes: Sequence[int],
        params: SamplingParams,
        *,
        opening: str = "",
        budget: ThoughtBudget | None = None,
        shows: Sequence[Message] = (),
    ) -> list[PendingSample]:
        """The samples of a prompt of token ids; none where it leaves no room in the context.

        Args:
            opening: What the prompt has opened of a thought.
            budget: Of thoughts, if they have one.
            shows: The messages with pictures that it was made of.
        """
        most = budget.most if budget else params.max_tokens
        room = most if self.context is None else min(most, self.context - len(prompt))
        if room < 1:
            return []
        return [
            PendingSample(
                key, index, prompt, room, sample_seed(params.seed, key, index), opening,
                ThoughtState(budget, opening, room) if budget else None, shows,
            )
            for index in indexes
        ]  # fmt: skip

    def build_thought_budget(self, params: SamplingParams) -> ThoughtBudget | None:
        """The budget of thoughts, if they have one."""
        if params.max_thinking_tokens is None:
            return None
        closers = partial(self.stop_token_mask, tuple(end for _, end in MARKS))
        return ThoughtBudget(self.chat, params.max_thinking_tokens, params.max_tokens, closers)

    def stop_token_mask(self, stop: tuple[str, ...]) -> np.ndarray:
        """Which tokens can complete one of the stop strings, bool [vocabulary]: those with the last character of one.

        Only sequences that just got such a token are decoded and searched. Tokens that are no whole characters count.
        """
        masks = self.chat.enders
        if stop not in masks:
            last = {text[-1] for text in stop if text}
            mask = np.ones(max(len(self.chat.tokenizer), self.model.config.get_text_config().vocab_size), dtype=bool)
            if not any(map(str.isspace, last)):  # some tokenizers decode a lone token without its spaces
                for token in range(len(self.chat.tokenizer)):
                    piece = self.chat.text_of([token])
                    mask[token] = "\ufffd" in piece or not last.isdisjoint(piece)
            masks[stop] = mask
        return masks[stop]
