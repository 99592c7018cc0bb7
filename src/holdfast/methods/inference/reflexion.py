"""Reflexion: try, have it judged, say in words what went wrong, try again with that in mind."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.axes.inference import Check, Draw, Inference, Step
from holdfast.data.chat.prompts import fill_template, require_slots
from holdfast.data.rows import Message
from holdfast.data.thoughts import final_answer
from holdfast.methods.inference.lockstep import run_together
from holdfast.methods.inference.own_judge import find_key_problem, give_own_judge
from holdfast.methods.inference.retrieval.conversation import rewrite_question
from holdfast.recipe.choices import JudgeChoice

if TYPE_CHECKING:
    from holdfast.axes.engine import Request, Sample
    from holdfast.axes.judge import Judge, Verdict

REFLECT = (
    "{feedback}\nIn a few sentences, explain what is wrong with this answer and what to do differently next time. "
    "Do not write the answer itself."
)
RETRY = "{feedback}\n{reflections}Try again."


@dataclass(frozen=True, slots=True)
class Trial:
    """One try: what was answered, and what the judge said."""

    sample: Sample
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return {"text": self.sample.text, "passed": self.verdict.passed, "reason": self.verdict.reason}


class Reflexion(Inference):
    """Try, be judged, reflect in words, try again with that memory. [Shinn et al. 2023, arXiv 2303.11366]

    What it does: the first try is the plain model's answer. A judge says whether it is right; where it is not, the
    model is shown its try and the judge's reason and writes a reflection, and tries again with the last try, the reason
    and its last `remember` reflections in the conversation, up to `trials` tries; the first that passes is the answer.
    Nothing is trained.

    Beside it, always: as many tries without reflection, each a fresh sample at the same temperature, the first that
    passes being taken. In a report they are the answers "retries": a method that may try again is right more often by
    that alone, and only what lies above it is due to reflection. That doubles the cost of measuring; `chat`, which
    judges nothing against them, asks for none.

    The judge must be one that a user has when the question is new: unit tests (`code`; the laboratory's `program`), or
    a function of theirs (`judge: {name: python, function: check.py:judge}`, which is given no reference). A task's
    judge that holds the answer against the right one is refused: trying until the answer key agrees measures the key.
    `oracle: true` asks for it all the same. The paper's HotPotQA figures are of that kind (exact match with the gold
    answer); its programs were tested by tests that the model wrote itself, and on MBPP it fell from 80.1 to 77.1, the
    tests being wrong. Here unit tests are the task's: say so where you quote a figure, since they also decide the
    score.

    When it helps: errors that a judge's reason points at (a failed test) and that the model can then mend. When it
    fails: small models, whose reflections say nothing; `memory: last_attempt` leaves them out.

    Likelihoods know nothing of it: only tasks whose answers are sampled can be measured through it.

    Formula: y_0 ~ p( . | x); r_k ~ p( . | x, y_k, j_k, "reflect"); y_(k+1) ~ p( . | x, y_k, j_k, r_(k-w+1 .. k)), w =
    `remember`; the answer is the first y_k that passes, else the last. One trial is the plain model.

    Paper: Shinn et al. 2023, "Reflexion: Language Agents with Verbal Reinforcement Learning" (arXiv 2303.11366): memory
    of 1 to 3 reflections. Its code runs programs of the model in its own process; here they run in the sandbox.
    """

    paper: ClassVar[str] = "Shinn et al. 2023, arXiv 2303.11366"
    neutral: ClassVar[Mapping[str, Any]] = {"trials": 1}

    trials: int = Field(3, ge=1, description="Tries at most; 1 = the plain model.")
    remember: int = Field(3, ge=1, description="Reflections in memory: the last so many.")
    memory: Literal["reflection", "last_attempt", "both", "none"] = Field(
        "both",
        description="What a further try sees: reflections, the last try with the judge's reason, both, or none of it: "
        "retries alone.",
    )
    temperature: float = Field(0.7, ge=0, description="Of all tries but the first, with reflection and without.")
    feedback: str = Field("That is not right{reason}.", description="What the model is told of a try that failed.")
    reflect: str = Field(REFLECT, description="How a reflection is asked for; {feedback} stands for the above.")
    retry: str = Field(RETRY, description="How a further try is asked for; {reflections} are those in memory.")
    reflection_tokens: int = Field(200, ge=1, description="Longest reflection.")
    judge: JudgeChoice = Field(None, description="Which judges the tries; default: the task's. It gets no reference.")
    oracle: bool = Field(False, description="Let a judge that needs the right answer judge the tries.")

    @field_validator("retry")
    @classmethod
    def _require_reflections(cls, retry: str) -> str:
        return require_slots(retry, "reflections")

    def find_task_problem(self, judge: Judge | None) -> str | None:
        return find_key_problem(judge, self.judge, self.oracle) if self.trials > 1 else None

    def attempts(self, request: Request) -> Generator[Sequence[Step], Sequence[Any], Sample]:
        (first,) = yield [request]
        is_measured = request.judging is not None
        if self.trials == 1 or (request.judging and self.find_task_problem(request.judging.judge)):
            return first
        request = give_own_judge(request, self.judge)
        (verdict,) = yield [Check(request, first.text)]
        start = Trial(first, verdict)
        chains = [self._run_chain(request, start, reflects=self.memory != "none")]
        if is_measured and self.memory != "none":
            chains.append(self._run_chain(request, start, reflects=False))
        with_memory, *without = yield from run_together(*chains)
        trials, reflections = with_memory
        trace: dict[str, Any] = {"trials": [trial.to_json() for trial in trials], "reflections": reflections}
        if without:
            trace["retries"] = [trial.to_json() for trial in without[0][0]]
            trace["beside"] = {"retries": without[0][0][-1].sample.text}
        return replace(trials[-1].sample, trace=trace)

    def _run_chain(
        self, request: Request, start: Trial, reflects: bool
    ) -> Generator[Sequence[Step], Sequence[Any], tuple[list[Trial], list[str]]]:
        """Tries until one passes or there are no more, and the reflections between them."""
        trials, reflections = [start], list[str]()
        while not trials[-1].verdict.passed and len(trials) < self.trials:
            messages = request.messages
            if reflects:
                if self.memory != "last_attempt":
                    ask = self._build_conversation(request, trials[-1], self.reflect, [])
                    settings = {"max_tokens": self.reflection_tokens}
                    (reflection,) = yield [Draw(replace(request, messages=ask), settings)]
                    reflections.append(final_answer(reflection.text).strip())
                messages = self._build_conversation(request, trials[-1], self.retry, reflections[-self.remember :])
            (sample,) = yield [Draw(replace(request, messages=messages), {"temperature": self.temperature})]
            (verdict,) = yield [Check(request, sample.text)]
            trials.append(Trial(sample, verdict))
        return trials, reflections

    def _build_conversation(
        self, request: Request, last: Trial, template: str, reflections: Sequence[str]
    ) -> list[Message]:
        """The question, the last try, and what is said of it."""
        judge = request.judging.judge if request.judging else None
        # The reason of one who holds the answer key may hold the answer.
        has_key = self.judge is None and judge is not None and judge.needs_answer_key()
        reason = "" if has_key or not last.verdict.reason else f": {last.verdict.reason.rstrip('.')}"
        feedback = fill_template(self.feedback, reason=reason)
        notes = "".join(f"- {text}\n" for text in reflections if text)
        memory = f"What you noted about earlier tries:\n{notes}" if notes else ""
        shows_attempt = self.memory != "reflection" or template is self.reflect
        text = fill_template(template, feedback=feedback if shows_attempt else "", reflections=memory).strip()
        if shows_attempt:
            attempt: list[Message] = [{"role": "assistant", "content": final_answer(last.sample.text)}]
            return [*request.messages, *attempt, {"role": "user", "content": text}]
        return rewrite_question(request.messages, lambda question: f"{question}\n\n{text}")
