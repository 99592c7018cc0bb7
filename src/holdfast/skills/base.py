"""The contract of a skill: a seeded generator of questions with a judge and several right ways to answer."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.core.spelling import suggest_name
from holdfast.data.rows import Message, Row
from holdfast.data.thoughts import final_answer

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
        facts: Whatever `Skill.write_answer` needs to write an answer.
    """

    key: str
    messages: list[Message]
    reference: Any
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> Split:
        return "test" if zlib.crc32(self.key.encode()) % TEST_SHARE == 0 else "train"


def single_turn_prompt(text: str) -> list[Message]:
    """A conversation of one user turn."""
    return [{"role": "user", "content": text}]


def pick_weighted(rng: random.Random, weights: dict[str, float]) -> str:
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
    has_tests: ClassVar[bool] = False
    """Whether answers are tested by what they do, without the right answer."""
    max_tokens: ClassVar[int] = 48

    def generate_question(self, rng: random.Random) -> Question:
        """A random question of either split."""
        raise NotImplementedError

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        """A right answer in `style`."""
        raise NotImplementedError

    def judge(self, answer: JudgeRequest) -> Verdict:
        """Whether a response is right, whatever its style."""
        raise NotImplementedError

    def judge_all(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        """Verdicts in order."""
        return [self.judge(answer) for answer in answers]

    def draw_question(self, rng: random.Random, split: Split) -> Question:
        """A random question of `split`."""
        while True:
            question = self.generate_question(rng)
            if question.split == split:
                return question

    def draw_new_question(self, rng: random.Random, split: Split, keys: Container[str]) -> Question | None:
        """The same; `None` for one that is known, before a wrong answer to it is looked for, which may run code."""
        question = self.draw_question(rng, split)
        return None if question.key in keys else question

    def generate_row(self, rng: random.Random, split: Split, style: str | None = None) -> Row:
        """A row of `split`, answered in `style` ("gold", a style's name, or `None`: drawn as the base answers)."""
        question = self.draw_question(rng, split)
        chosen = self.gold or max(self.styles, key=self.styles.get) if style == "gold" else style  # type: ignore[arg-type]
        answer = self.write_answer(question, chosen or pick_weighted(rng, self.styles), rng)
        return Row(
            messages=[*question.messages, {"role": "assistant", "content": answer}],
            reference=question.reference,
            meta={"skill": self.name, "key": question.key},
        )

    def generate_preference_row(
        self, rng: random.Random, split: Split, gold: bool = False, keys: Container[str] = ()
    ) -> Row | None:
        """A preference row: a right answer in one of the base's styles, and the same answer made wrong.

        Args:
            gold: The answer in the gold style stands beside them.
            keys: Of questions that are there already; `None` is given for one of these.
        """
        if (question := self.draw_new_question(rng, split, keys)) is None:
            return None
        base = {k: v for k, v in self.styles.items() if k != self.gold}
        chosen = self.write_answer(question, pick_weighted(rng, base), rng)
        rejected = self._corrupt_answer(question, chosen, rng)
        messages = question.messages
        if gold:
            style = self.gold or max(self.styles, key=self.styles.get)  # type: ignore[arg-type]
            gold_answer = self.write_answer(question, style, random.Random(question.key))
            messages = [*messages, {"role": "assistant", "content": gold_answer}]
        meta = {"skill": self.name, "key": question.key, "score_chosen": 1.0, "score_rejected": 0.0}
        return Row(messages=messages, chosen=chosen, rejected=rejected, reference=question.reference, meta=meta)

    def generate_choices_row(self, rng: random.Random, split: Split, keys: Container[str] = ()) -> Row | None:
        """A row with the right answer and three wrong ones in `meta.choices`, `meta.right` saying which is right."""
        if (question := self.draw_new_question(rng, split, keys)) is None:
            return None
        answer = self.write_answer(question, pick_weighted(rng, self.styles), rng)
        choices = [answer]
        while len(choices) < CHOICES:
            if (wrong := self._corrupt_answer(question, answer, rng)) not in choices:
                choices.append(wrong)
        right = rng.randrange(CHOICES)
        choices[0], choices[right] = choices[right], choices[0]
        return Row(
            messages=[*question.messages, {"role": "assistant", "content": answer}],
            reference=question.reference,
            meta={"skill": self.name, "key": question.key, "choices": choices, "right": right},
        )

    def _corrupt_answer(self, question: Question, text: str, rng: random.Random) -> str:
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
                wrong = self.write_answer(self.generate_question(rng), pick_weighted(rng, self.styles), rng)
            if not self.judge(JudgeRequest(question.messages, wrong, question.reference)).passed:
                return wrong

    def generate_rows(
        self, n: int, split: Split, seed: int, style: str | None = None, form: Form = "answer"
    ) -> list[Row]:
        """`n` different questions of `split` (fewer if the skill has fewer), repeatable."""
        rng = random.Random(f"{self.name}/{split}/{seed}")
        make: dict[Form, Callable[[set[str]], Row | None]] = {
            "answer": lambda keys: self.generate_row(rng, split, style),
            "pair": lambda keys: self.generate_preference_row(rng, split, keys=keys),
            "triple": lambda keys: self.generate_preference_row(rng, split, gold=True, keys=keys),
            "choices": lambda keys: self.generate_choices_row(rng, split, keys),
        }
        return list(self._draw_unique_rows(n, make[form]))

    def _draw_unique_rows(self, n: int, make: Callable[[set[str]], Row | None]) -> Iterator[Row]:
        keys: set[str] = set()
        misses = 0
        while len(keys) < n and misses < 50 * n:
            row = make(keys)
            if row is None or row.meta["key"] in keys:
                misses += 1
                continue
            keys.add(row.meta["key"])
            yield row


def binary_verdict(is_right: bool, reason: str = "") -> Verdict:
    """A verdict of a judge that only knows right and wrong."""
    return Verdict(is_right, float(is_right), reason)


class SkillJudge(Judge):
    """The judge of a laboratory skill: any right answer passes, in whatever style [laboratory]."""

    skill: str = Field(description="The skill.")

    @field_validator("skill")
    @classmethod
    def _require_known_skill(cls, name: str) -> str:
        from holdfast.skills import SKILL_VARIANTS, SKILLS

        names = [*SKILLS, *SKILL_VARIANTS]
        if name not in names:
            raise ValueError(f"{name} is not a laboratory skill{suggest_name(name, names)}")
        return name

    def example_answers(self) -> Sequence[JudgeRequest]:
        from holdfast.skills import load_skill

        rows = load_skill(self.skill).generate_rows(3, "train", seed=0)
        return [JudgeRequest(row.prompt, row.answer or "", row.gold) for row in rows]

    def judge(self, answer: JudgeRequest) -> Verdict:
        return self.judge_all([answer])[0]

    def needs_answer_key(self) -> bool:
        from holdfast.skills import load_skill

        return not load_skill(self.skill).has_tests

    def read_answer(self, answer: JudgeRequest) -> str | None:
        number = re.findall(r"-?\d+", readable_answer(answer.response)) if isinstance(answer.reference, int) else []
        return number[-1] if number else super().read_answer(answer)

    def judge_all(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        from holdfast.skills import load_skill

        return load_skill(self.skill).judge_all([replace(a, response=readable_answer(a.response)) for a in answers])


MOST_DIGITS = 1000
"""Of a number in an answer; Python refuses to read one of more than 4300."""


def readable_answer(response: str) -> str:
    """What is said after the thought, with no number longer than skills can read."""
    return re.sub(rf"(\d{{{MOST_DIGITS}}})\d+", r"\1", final_answer(response))
