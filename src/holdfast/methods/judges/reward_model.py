"""The `reward_model` judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import Field

from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.models.reward_model import RewardModel


class RewardModelJudge(Judge):
    """A reward model says what the answer is worth. [Ouyang et al. 2022, arXiv 2203.02155]

    For answers that no rule can judge, and of which is known which of two is better: train a model with objective
    `reward` on such pairs, and name its run here; or name any ForSequenceClassification of one label. The score is
    sigmoid(r - threshold): the probability that the answer is preferred to one whose reward is `threshold`; it passes
    from there. Needs no reference. Of a model that thinks the answer after the thought is judged; one without passes
    never. A reward model is right about answers like those it has seen: what learns from it for long finds others.
    """

    paper = "Ouyang et al. 2022 (2203.02155); Bradley and Terry 1952"

    model: str = Field(description="A run with objective reward, or a ForSequenceClassification of one label.")
    threshold: float = Field(0.0, allow_inf_nan=False, description="Reward from which on an answer passes.")

    @property
    def identity(self) -> Any:
        from holdfast.models.reward_model import reward_fingerprint

        return {**self.model_dump(mode="json"), "weights": reward_fingerprint(self.model)}

    def needs_answer_key(self) -> bool:
        return False

    def check_ready(self) -> None:
        from holdfast.models.reward_model import find_reward_problem

        if problem := find_reward_problem(self.model):
            raise UserError(f"judge reward_model: {problem}")

    def judge(self, answer: JudgeRequest) -> Verdict:
        return self.judge_all([answer])[0]

    def judge_all(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        # Half a surrogate pair, which a cut answer may end with, is no text that a tokenizer takes.
        texts = [answer.final_response.encode("utf-8", "replace").decode() for answer in answers]
        readable = [i for i, text in enumerate(texts) if text.strip()]
        verdicts = [Verdict.as_unreadable("no answer")] * len(texts)
        rewards = read_model(self.model).score_conversations(
            [[*answers[i].prompt, {"role": "assistant", "content": texts[i]}] for i in readable]
        )
        for i, reward in zip(readable, rewards, strict=True):
            verdicts[i] = self.build_verdict(reward)
        return verdicts

    def build_verdict(self, reward: float) -> Verdict:
        """What a reward comes to."""
        if not math.isfinite(reward):
            return Verdict(False, 0.0, f"the reward is {reward}", failed=True)
        reward = round(reward, 4)  # the last bits depend on which answers are read together
        above = min(max(reward - self.threshold, -500.0), 500.0)
        return Verdict(above >= 0, 1 / (1 + math.exp(-above)), f"reward {reward:.4g}")


@lru_cache(maxsize=1)
def read_model(name: str) -> RewardModel:
    """The model called so, kept while it is the one asked."""
    from holdfast.models.reward_model import load_reward_model

    return load_reward_model(name)
