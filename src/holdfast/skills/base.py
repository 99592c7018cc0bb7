"""The contract of a skill: a seeded generator of questions with a judge and several right ways to answer."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from holdfast.axes.judge import Answer, Judge, Verdict
from holdfast.core.spelling import nearest
from holdfast.data.rows import Message, Row

Split = Literal["train", "test"]
Form = Literal["answer", "pair", "triple", "choices"]
"""What a row holds: an answer; chosen and rejected; those and the gold answer; several answers, one of them right."""
CHOICES = 4
TEST_SHARE = 5
"""One question in this many belongs to the test split."""


@dataclass(slots=True)
class Question:
    """One question before it is answered.

    Args:
        key: What makes two questions the same; the split is a hash of it, so train and test never share one.
        messages: What the model is shown, ending with the user's turn.
        reference: What the judge compares with.
        facts: Whatever `Skill.answer` needs to write an answer.
    """

    key: str
    messages: list[Message]
    reference: Any
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> Split:
        return "test" if zlib.crc32(self.key.encode()) % TEST_SHARE == 0 else "train"


def ask(text: str) -> list[Message]:
    """A conversation of one user turn."""
    return [{"role": "user", "content": text}]


def pick(rng: random.Random, weights: dict[str, float]) -> str:
    """A key of `weights`, drawn in proportion to its value."""
    return rng.choices(list(weights), list(weights.values()))[0]


class Skill:
    """Something the laboratory model knows how to do.

    Attributes:
        name: Its name in `lab:NAME`.
        styles: How the base answers, with shares; all of them are right.
        gold: The style of the fine-tuning set; by default the commonest of `styles`.
        threshold: Least greedy accuracy (points) the base model must reach on fresh questions.
    """

    name: ClassVar[str]
    styles: ClassVar[dict[str, float]]
    gold: ClassVar[str | None] = None
    threshold: ClassVar[float]
    max_tokens: ClassVar[int] = 48

    def question(self, rng: random.Random) -> Question:
        """A random question of either split."""
        raise NotImplementedError

    def answer(self, question: Question, style: str, rng: random.Random) -> str:
        """A right answer in `style`."""
        raise NotImplementedError

    def judge(self, answer: Answer) -> Verdict:
        """Whether a response is right, whatever its style."""
        raise NotImplementedError

    def judge_all(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Verdicts in order."""
        return [self.judge(answer) for answer in answers]

    def draw(self, rng: random.Random, split: Split) -> Question:
        """A random question of `split`."""
        while True:
            question = self.question(rng)
            if question.split == split:
                return question

    def row(self, rng: random.Random, split: Split, style: str | None = None) -> Row:
        """A row of `split`, answered in `style` ("gold", a style's name, or `None`: drawn as the base answers)."""
        question = self.draw(rng, split)
        chosen = self.gold or max(self.styles, key=self.styles.get) if style == "gold" else style  # type: ignore[arg-type]
        answer = self.answer(question, chosen or pick(rng, self.styles), rng)
        return Row(
            messages=[*question.messages, {"role": "assistant", "content": answer}],
            reference=question.reference,
            meta={"skill": self.name, "key": question.key},
        )

    def pair(self, rng: random.Random, split: Split, gold: bool = False) -> Row:
        """A preference row: a right answer in one of the base's styles, and the same answer made wrong.

        Args:
            gold: The answer in the gold style stands beside them.
        """
        question = self.draw(rng, split)
        base = {k: v for k, v in self.styles.items() if k != self.gold}
        chosen = self.answer(question, pick(rng, base), rng)
        rejected = self._spoilt(question, chosen, rng)
        messages = question.messages
        if gold:
            style = self.gold or max(self.styles, key=self.styles.get)  # type: ignore[arg-type]
            said = self.answer(question, style, random.Random(question.key))
            messages = [*messages, {"role": "assistant", "content": said}]
        meta = {"skill": self.name, "key": question.key, "score_chosen": 1.0, "score_rejected": 0.0}
        return Row(messages=messages, chosen=chosen, rejected=rejected, reference=question.reference, meta=meta)

    def several(self, rng: random.Random, split: Split) -> Row:
        """A row with the right answer and three wrong ones in `meta.choices`, `meta.right` saying which is right."""
        question = self.draw(rng, split)
        answer = self.answer(question, pick(rng, self.styles), rng)
        choices = [answer]
        while len(choices) < CHOICES:
            if (wrong := self._spoilt(question, answer, rng)) not in choices:
                choices.append(wrong)
        right = rng.randrange(CHOICES)
        choices[0], choices[right] = choices[right], choices[0]
        return Row(
            messages=[*question.messages, {"role": "assistant", "content": answer}],
            reference=question.reference,
            meta={"skill": self.name, "key": question.key, "choices": choices, "right": right},
        )

    def _spoilt(self, question: Question, text: str, rng: random.Random) -> str:
        """`text` with one of its numbers changed, or another question's answer, until the judge says it is wrong."""
        numbers = list(re.finditer(r"\d+", text))
        tries = 0
        while True:
            tries += 1
            if numbers and tries <= 8:
                hit = rng.choice(numbers[-2:])
                wrong = (
                    text[: hit.start()]
                    + str(abs(int(hit.group()) + rng.choice((-10, -2, -1, 1, 2, 10))))
                    + text[hit.end() :]
                )
            else:
                wrong = self.answer(self.question(rng), pick(rng, self.styles), rng)
            if not self.judge(Answer(question.messages, wrong, question.reference)).passed:
                return wrong

    def rows(self, n: int, split: Split, seed: int, style: str | None = None, form: Form = "answer") -> list[Row]:
        """`n` different questions of `split` (fewer if the skill has fewer), repeatable."""
        rng = random.Random(f"{self.name}/{split}/{seed}")
        make = {
            "answer": lambda: self.row(rng, split, style),
            "pair": lambda: self.pair(rng, split),
            "triple": lambda: self.pair(rng, split, gold=True),
            "choices": lambda: self.several(rng, split),
        }
        return list(self._unique(n, make[form]))

    def _unique(self, n: int, make: Callable[[], Row]) -> Iterator[Row]:
        seen: set[str] = set()
        misses = 0
        while len(seen) < n and misses < 50 * n:
            row = make()
            if row.meta["key"] in seen:
                misses += 1
                continue
            seen.add(row.meta["key"])
            yield row


def right(passed: bool, reason: str = "") -> Verdict:
    """A verdict of a judge that only knows right and wrong."""
    return Verdict(passed, float(passed), reason)


class SkillJudge(Judge):
    """The judge of a laboratory skill: any right answer passes, in whatever style [laboratory]."""

    skill: str

    @field_validator("skill")
    @classmethod
    def _known(cls, name: str) -> str:
        from holdfast.skills import SKILLS

        if name not in SKILLS:
            raise ValueError(f"{name} is not a laboratory skill{nearest(name, SKILLS)}")
        return name

    def judge(self, answer: Answer) -> Verdict:
        from holdfast.skills import skill

        return skill(self.skill).judge(answer)

    def judge_all(self, answers: Sequence[Answer]) -> list[Verdict]:
        from holdfast.skills import skill

        return skill(self.skill).judge_all(answers)
