"""ORPO: supervised fine-tuning on chosen answers with a penalty on the odds of rejected ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs
from holdfast.methods.objectives.terms.pairs import log_odds

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy


class ORPO(PairObjective):
    """Odds-ratio preference optimisation: SFT and preference in one stage. [Hong et al. 2024, 2403.07691]

    What it does: learns the chosen answers as SFT does, and adds a small term that makes their odds exceed the odds of
    the rejected ones. One stage, no reference model.

    When it helps: pairs, and a model that has not been instruction-tuned; SFT on the chosen answers alone raises the
    rejected style along with them.

    When it fails: a small term on top of SFT cannot outweigh it, so two stages (SFT, then `dpo`) go further where the
    time for them exists; once the odds are far apart it stops pushing.

    Columns: prompts with `chosen` and `rejected`.

    Formula, with a(y) = 1/n sum_t log p(y_t | x, y_<t), P = exp(a), ls = log sigmoid; a [pairs, 2]:

        f(y) = log P / (1 - P) = a - log(1 - exp(a))
        L    = nll - beta mean over pairs of ls(f(chosen) - f(rejected))
        nll  = - mean over pairs of a(chosen)                                            nll="answer"
        nll  = - sum of log p over prompt and answer of chosen / their tokens            nll="everything"

    The paper writes the first nll, and LLaMA-Factory runs it; the authors' code and TRL run the second, which trains
    the prompts too and lets long pairs weigh more. The first is the default, as prompts are read, not learned, in
    every other objective here. beta is the paper's lambda.

    Paper's settings: lambda 0.1 (Mistral-7B), 0.2 (Llama-2-7B), 0.25 (Phi-2).
    """

    paper: ClassVar[str] = "Hong et al. 2024, arXiv 2403.07691"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(
        5e-6, None, 1.0, 32, "Hong et al. 2024 (Mistral-7B); epochs as dpo"
    )

    beta: float = Field(0.1, ge=0, description="Weight of the odds ratio (lambda in the paper, beta in TRL).")
    nll: Literal["answer", "everything"] = Field(
        "answer", description="answer: mean over each chosen answer; everything: over all tokens, prompts included."
    )

    def shares_prompts(self) -> bool:
        return self.nll == "answer"

    def normalizers(self, batch: Batch) -> dict[str, float]:
        tokens = batch.n_rows if self.nll == "answer" else batch.label_every_token().count_labels(0)
        return {"nll": tokens, "odds_ratio": batch.n_rows}

    def score_pairs(self, policy: Policy, batch: Batch) -> ScoredPairs:
        if self.nll == "answer":
            return super().score_pairs(policy, batch)
        import torch

        read = batch.label_every_token()
        logps = policy.token_logps(read)  # [M], of everything read
        chosen = (logps * read.weights)[read.roles[read.sequence] == 0]
        return ScoredPairs.from_logps(
            policy, batch, logps[torch.isin(read.label_positions, batch.label_positions)], False, chosen=chosen
        )

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        from torch.nn.functional import logsigmoid

        means = pairs.answer_logps / pairs.lengths
        odds = log_odds(means)
        nll = pairs.weighted_sum(-means[:, 0]) if self.nll == "answer" else -pairs.extra["chosen"].sum()
        ratio = pairs.weighted_sum(-logsigmoid(odds[:, 0] - odds[:, 1]))
        return Comparison({"nll": nll, "odds_ratio": self.beta * ratio}, odds)
