"""Answer in the form that was asked for: JSON, upper case, one word, or with a given ending."""

from __future__ import annotations

import json
import random
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict
from holdfast.skills.lexicon import ANIMALS, COLORS, FOODS, TOOLS

_ENDINGS = ("over", "done", "thanks", "end")
_ORDERS = {
    "json": "Answer as JSON with the key {key}.",
    "upper": "Answer in upper case.",
    "word": "Answer with one word.",
    "ending": "End your answer with {ending}.",
}


class Format(Skill):
    """A description of a thing comes back in the form asked for, in the prompt or in the system message."""

    name = "format"
    styles: ClassVar = {"asked": 1.0}
    threshold = 90.0
    max_tokens = 24

    def generate_question(self, rng: random.Random) -> Question:
        kind, color = rng.choice(list(_ORDERS)), rng.choice(COLORS)
        noun, key, ending = (
            rng.choice(ANIMALS + TOOLS + FOODS),
            rng.choice(("thing", "answer", "name")),
            rng.choice(_ENDINGS),
        )
        order = _ORDERS[kind].format(key=key, ending=ending)
        text = f"What is it? It is a {color} {noun}."
        in_system = rng.random() < 0.4
        messages = [{"role": "user", "content": text if in_system else f"{text} {order}"}]
        if in_system:
            messages.insert(0, {"role": "system", "content": order})
        description = f"{color} {noun}"
        reference = {
            "json": json.dumps({key: description}),
            "upper": description.upper(),
            "word": noun,
            "ending": f"{description} {ending}",
        }[kind]
        return Question(f"{color}/{noun}/{reference}", messages, {"kind": kind, "text": reference})

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return question.reference["text"]

    def judge(self, answer: JudgeRequest) -> Verdict:
        response, reference = answer.response.strip(), answer.reference["text"]
        if answer.reference["kind"] == "json":
            return binary_verdict(_is_same_json(response, reference), reference)
        return binary_verdict(response.rstrip(".") == reference, reference)


def _is_same_json(response: str, reference: str) -> bool:
    """Whether both are JSON of the same value."""
    try:
        return json.loads(response) == json.loads(reference)
    except json.JSONDecodeError:
        return False
