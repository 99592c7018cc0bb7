"""Self-consistency: several answers are drawn, and the one that most of them come to is given."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.inference import Draw, Inference, Step
from holdfast.axes.judge import JudgeRequest
from holdfast.recipe.choices import JudgeChoice

if TYPE_CHECKING:
    from holdfast.axes.engine import Request, Sample


class SelfConsistency(Inference):
    """The answer that most of several samples come to. [Wang et al. 2022, arXiv 2203.11171]

    What it does: the model answers `n` times at `temperature`; what each answer comes to is read as the task's judge
    reads it (the final number, the chosen letter, else the words), and the answer given most often is returned, in the
    words of the first sample that gave it. Of answers given equally often the first drawn goes before. Samples that
    come to nothing readable do not vote.

    When it helps: questions with one short right answer and many ways to it (arithmetic, multiple choice, short facts),
    and a model that is right more often than it is wrong in any one way: GSM8K rises by 18 points in the paper. When it
    fails: free text, where no two samples are the same; systematic errors, which win the vote. It costs `n` answers for
    one; the report has the tokens. Answers are not seen growing in `chat`.

    Likelihoods know nothing of it: only tasks whose answers are sampled can be measured through it.

    Needs: nothing. `judge` says how answers are read where there is no task (`chat`), `{name: number}`.

    Formula: argmax_a sum_i [read(y_i) = a], y_i ~ p( . | x) at the temperature, i = 1 .. n; n = 1 at temperature 0 is
    the plain model.

    Paper: Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning in Language Models" (arXiv
    2203.11171, ICLR 2023): 40 samples at temperature 0.7 (LaMDA: 0.5, top-k 40); most of the gain comes with 5 to 10.
    """

    paper: ClassVar[str] = "Wang et al. 2022, arXiv 2203.11171"
    neutral: ClassVar[Mapping[str, Any]] = {"n": 1, "temperature": 0.0}

    n: int = Field(10, ge=1, description="Answers drawn for each that is given; the paper's figures are of 40.")
    temperature: float = Field(0.7, ge=0, description="Of each; at 0 all are alike.")
    top_k: int = Field(0, ge=0, description="Drawn from the k likeliest tokens; 0 = all.")
    judge: JudgeChoice = Field(None, description="Which reads what answers come to; default: the task's, or the words.")

    def attempts(self, request: Request) -> Generator[Sequence[Step], Sequence[Any], Sample]:
        settings = {"temperature": self.temperature, "top_k": self.top_k}
        if self.n == 1 and not self.temperature:
            settings = {}  # as it was asked for
        samples: list[Sample] = list((yield [Draw(request, settings)] * self.n))
        answers = [self.read_sample(request, sample) for sample in samples]
        votes: dict[str, int] = {}
        for answer in answers:
            if answer is not None:
                votes[answer] = votes.get(answer, 0) + 1
        winner = max(votes, key=lambda answer: votes[answer], default=None)  # the first of equals: dicts keep the order
        chosen = samples[answers.index(winner)] if winner is not None else samples[0]
        if self.n == 1:
            return chosen
        return replace(chosen, trace={"votes": votes, "answers": [sample.text for sample in samples]})

    def read_sample(self, request: Request, sample: Sample) -> str | None:
        """What a sample comes to."""
        task = request.judging
        answer = JudgeRequest(request.messages, sample.text, task.reference if task and self.judge is None else None)
        if self.judge is not None:
            return self.judge.read_answer(answer)
        if task is not None:
            return task.judge.read_answer(answer)
        return " ".join(answer.final_response.split()).rstrip(".").casefold() or None
