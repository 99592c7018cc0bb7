"""The contract of a judge: (prompt, response, reference) to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast.axes.method import Method
from holdfast.data.rows import Message
from holdfast.data.thoughts import final_answer

if TYPE_CHECKING:
    from holdfast.axes.engine import SampleFn

Outcome = Literal["right", "wrong", "unreadable"]
"""What a verdict counts as in results."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of one answer.

    Args:
        passed: Whether the answer counts as right.
        score: In [0, 1]; 1.0 or 0.0 for judges that only know right and wrong.
        reason: Why, in a few words; shown in traces and reports.
        failed: True when the judging itself broke (an exception or time-out in the user's function): never a pass.
        unreadable: True when the judge cannot tell what the answer says, or whether that is the reference: never a
            pass, and counted apart from wrong answers.
    """

    passed: bool
    score: float
    reason: str = ""
    failed: bool = False
    unreadable: bool = False

    @property
    def outcome(self) -> Outcome:
        """What the verdict counts as."""
        if self.failed or self.unreadable:
            return "unreadable"
        return "right" if self.passed else "wrong"

    @classmethod
    def as_unreadable(cls, reason: str) -> Verdict:
        """The verdict of a judge that cannot tell."""
        return cls(False, 0.0, reason, unreadable=True)


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One answer to be judged."""

    prompt: list[Message]
    response: str
    reference: Any

    @property
    def final_response(self) -> str:
        """What the response says after its thought, which is what is judged; "" where the thought never ended."""
        return final_answer(self.response)


@dataclass(frozen=True, slots=True)
class Judging:
    """How answers to one question are judged.

    Args:
        judge: Which says whether they are right.
        reference: What it holds them against; `None` for one that needs nothing.
        fingerprint: Of both, for whoever keeps what depends on them.
    """

    judge: Judge
    reference: Any = None
    fingerprint: str = ""


class Judge(Method):
    """Decides whether an answer is right."""

    needs_engine: ClassVar[bool] = False
    """True for judges that themselves sample from a model (`llm`)."""

    @property
    def identity(self) -> Any:
        """What verdicts depend on beside the answer: the settings, and of some judges what is installed. JSON-able."""
        return self.model_dump(mode="json")

    def needs_answer_key(self) -> bool:
        """Whether a verdict comes from the right answer, which nobody has of a question that is new.

        False for judges that test what an answer does (`code`: unit tests, which a user has before the program).
        """
        return True

    def read_answer(self, answer: JudgeRequest) -> str | None:
        """What an answer comes to, so that two that say the same are equal.

        By default its words after the thought, without case or end of sentence; `None` where nothing can be read. Of
        the reference at most the kind is looked at (a number, the options that there are), never what it says.
        """
        return " ".join(answer.final_response.split()).rstrip(".").casefold() or None

    def own_file(self) -> Path | None:
        """The user's own file that decides, where there is one: verdicts depend on what is in it."""
        return None

    def with_engine(self, draw: SampleFn) -> Judge:
        """This judge, able to sample through `draw`; itself for judges that need no engine."""
        return self

    def check_ready(self) -> None:
        """See that this judge can work here, before there is anything to judge.

        Raises:
            UserError: If not.
        """

    def describe_protection(self) -> str | None:
        """For judges that run code: a sentence about what keeps it from harm on this machine, and what does not."""
        return None

    def example_answers(self) -> Sequence[JudgeRequest]:
        """Answers that are right, to which `holdfast.testing` holds the judge.

        By default none: it takes words and numbers whose answer is the reference itself, as far as
        `find_reference_problem` lets them pass.
        """
        return ()

    def judge(self, answer: JudgeRequest) -> Verdict:
        """The verdict on one answer."""
        raise NotImplementedError

    def judge_all(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        """Verdicts in order; judges that start processes or call models override this to work on many at once."""
        return [self.judge(a) for a in answers]

    def find_reference_problem(self, reference: Any) -> str | None:
        """Why `reference` cannot be judged with (no number in it, no tests), or `None` when it can."""
        return None
