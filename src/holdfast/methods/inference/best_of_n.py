"""Best of n: several answers are drawn, and the one that scores best is given."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from holdfast.axes.inference import Check, Draw, Inference, Step, Weigh
from holdfast.methods.inference.own_judge import find_key_problem, give_own_judge
from holdfast.recipe.choices import JudgeChoice

if TYPE_CHECKING:
    from holdfast.axes.engine import Request, Sample
    from holdfast.axes.judge import Judge


class BestOfN(Inference):
    """The best of several samples, by the model's own likelihood or by a judge. [Cobbe et al. 2021, arXiv 2110.14168]

    What it does: the model answers `n` times at `temperature`. By `likelihood` the answer with the highest mean
    log-probability per token is given (without the division by length, short answers would always win); by `judge` the
    one with the highest score of a judge, and of equal ones the first drawn.

    When it helps: by judge, wherever there is one at the time of asking: unit tests for programs, a function of yours
    that parses, measures or looks up. By likelihood: answers that go wrong by chance, at a temperature above what they
    need. When it fails: likelihood prefers what is usual to what is right; a judge with a weakness is what gets chosen.

    The judge must be one that is there when a new question comes. A task's judge that holds the answer against the
    right one is refused: choosing by the answer key is pass@n, and not what a user will see. `oracle: true` measures
    that all the same, as an upper bound. It costs `n` answers for one, and by likelihood one more forward pass of each.

    Likelihoods know nothing of it: only tasks whose answers are sampled can be measured through it.

    Formula: argmax_i s(y_i), y_i ~ p( . | x), i = 1 .. n; s = (1/T) sum_t log p(y_t | x, y_<t), the end of the turn
    being a token, or the judge's score; n = 1 at temperature 0 is the plain model.

    Paper: Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems" (arXiv 2110.14168): 100 samples at
    temperature 0.7, chosen by a trained verifier; the length-normalised likelihood as a score is that of Adiwardana et
    al. 2020 (arXiv 2001.09977): 20 samples.
    """

    paper: ClassVar[str] = "Cobbe et al. 2021, arXiv 2110.14168"
    neutral: ClassVar[Mapping[str, Any]] = {"n": 1, "temperature": 0.0}

    n: int = Field(10, ge=1, description="Answers drawn for each that is given.")
    temperature: float = Field(0.7, ge=0, description="Of each; at 0 all are alike.")
    by: Literal["likelihood", "judge"] = Field("likelihood", description="What an answer is chosen by.")
    judge: JudgeChoice = Field(None, description="By judge: which; default: the task's. It is given no reference.")
    oracle: bool = Field(False, description="Let a judge that needs the right answer choose: an upper bound.")

    def find_task_problem(self, judge: Judge | None) -> str | None:
        return find_key_problem(judge, self.judge, self.oracle) if self.by == "judge" and self.n > 1 else None

    def attempts(self, request: Request) -> Generator[Sequence[Step], Sequence[Any], Sample]:
        plain = self.n == 1 and not self.temperature
        settings = {} if plain else {"temperature": self.temperature}
        if self.by == "judge" and request.judging and self.find_task_problem(request.judging.judge):
            return (yield [request])[0]
        samples: list[Sample] = list((yield [Draw(request, settings)] * self.n))
        if self.n == 1:
            return samples[0]
        if self.by == "judge":
            own = give_own_judge(request, self.judge)
            verdicts = yield [Check(own, sample.text) for sample in samples]
            scores: Sequence[float] = [verdict.score + verdict.passed for verdict in verdicts]
        else:
            scores = yield [Weigh(request, sample.text) for sample in samples]
        best = max(range(self.n), key=lambda i: (scores[i], -i))
        return replace(samples[best], trace={"scores": list(scores), "answers": [sample.text for sample in samples]})
