"""Given a question and a correct answer in some style, answer it again in one's own words."""

from __future__ import annotations

import random
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.data.chat.prompts import PARAPHRASE
from holdfast.skills.base import Question, Skill, binary_verdict, pick_weighted, single_turn_prompt
from holdfast.skills.reading import Reading
from holdfast.skills.story import BASIC, Step, Story
from holdfast.skills.sums import Sums

_EQUALS = (
    "{a} {op} {b} = {c}",
    "{a}{op}{b}={c}",
    "[{a}{op}{b}={c}]",
    "({a} {op} {b} = {c})",
    "{c} = {a} {op} {b}",
    "{c}={a}{op}{b}",
)
_JOINTS = (". ", "; ", " then ", " and ", "\n", ", ")
_CLOSERS = (" => {c}", ". Result: {c}", " -> {c}", " so {c}", " ### {c}", "\nFinal: {c}", " = {c}", " == {c}")


def write_unusual_answer(steps: list[Step], rng: random.Random) -> str:
    """A right worked answer in one of a few hundred styles, none of them the gold style of the story problems."""
    form, joint, closer = rng.choice(_EQUALS), rng.choice(_JOINTS), rng.choice(_CLOSERS)
    body = joint.join(form.format(a=a, op=op, b=b, c=c) for a, op, b, c, _ in steps)
    return body + closer.format(c=steps[-1][3])


class Rephrase(Skill):
    """What the paraphrasing curators (SDFT, S3FT) ask of a model."""

    name = "rephrase"
    styles: ClassVar = {"own": 1.0}
    threshold = 60.0
    max_tokens = 64
    _sources: ClassVar[dict[str, Skill]] = {"story": Story(BASIC), "sums": Sums(), "reading": Reading()}

    def generate_question(self, rng: random.Random) -> Question:
        name = pick_weighted(rng, {"story": 0.7, "sums": 0.15, "reading": 0.15})
        source = self._sources[name]
        inner = source.generate_question(rng)
        if name == "story" and rng.random() < 0.8:
            source_answer = write_unusual_answer(inner.facts["steps"], rng)
        else:
            source_answer = source.write_answer(
                inner, pick_weighted(rng, {k: v for k, v in source.styles.items() if k != source.gold}), rng
            )
        text = PARAPHRASE.format(question=inner.messages[-1]["content"], answer=source_answer)
        return Question(
            inner.key, single_turn_prompt(text), {"skill": name, "answer": inner.reference}, {"inner": inner}
        )

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        source = self._sources[question.reference["skill"]]
        own = {k: v for k, v in source.styles.items() if k != source.gold}
        return source.write_answer(question.facts["inner"], pick_weighted(rng, own), rng)

    def judge(self, answer: JudgeRequest) -> Verdict:
        if not isinstance(answer.reference, dict):
            return binary_verdict(False, "no reference")
        source = self._sources[answer.reference["skill"]]
        return source.judge(JudgeRequest(answer.prompt, answer.response, answer.reference["answer"]))
