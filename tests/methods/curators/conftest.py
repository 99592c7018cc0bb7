"""A small world for curators: rows of sums, a scripted model, a journal that can be killed, a context."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from holdfast.axes.curator import CurationContext
from holdfast.axes.engine import Sample, SamplingParams
from holdfast.axes.judge import Verdict
from holdfast.data.rows import Row
from holdfast.methods.judges.number import Number


def sums(n=12):
    """n addition rows in the gold hand; two of them are equal."""
    rows = []
    for i in range(n):
        a, b = i, i % 5 + 1
        messages = [
            {"role": "system", "content": "Add."},
            {"role": "user", "content": f"What is {a} plus {b}?"},
            {"role": "assistant", "content": f"{a} + {b} = {a + b}\n#### {a + b}"},
        ]
        rows.append(Row(messages, meta={"skill": "sums"}))
    return [*rows, replace(rows[0])]


def reply(request, index, seed, temperature):
    """What the scripted model says: a pure function of request, index, seed and temperature.

    Asked plainly it is right on half of the rows, cut off on a few; asked to paraphrase it is right on most.
    """
    question = request.messages[-1]["content"]
    numbers = [int(word.strip("?.\n")) for word in question.replace("\n", " ").split() if word.strip("?.").isdigit()][
        :2
    ]
    rng = random.Random(json.dumps([request.messages, index if temperature else 0, seed if temperature else 0]))
    total = sum(numbers)
    if question.startswith("Question: "):
        right, text = rng.random() < 0.8, f"Put otherwise, {numbers[0]} + {numbers[1]} = {{}}. The answer is {{}}."
    else:
        right, text = rng.random() < 0.5, rng.choice(["{}", "It makes {}.", f"{numbers[0]} + {numbers[1]} = {{}}"])
    said = total if right else total + 1
    return text.format(*[said] * text.count("{}")), rng.random() < 0.1


class Killed(Exception):
    pass


class Journal:
    """Keeps samples by all they depend on, as the real journal does; after `die_after` new ones it is killed."""

    def __init__(self):
        self.held, self.drawn, self.die_after, self.by_chance = {}, [], None, False

    def draw(self, requests, params, on_sample=None):
        assert len({r.key for r in requests}) == len(requests), "keys must differ"
        out = {}
        self.by_chance |= params.temperature > 0
        for request in requests:
            out[request.key] = []
            for index in range(params.n):
                name = json.dumps([request.key, request.messages, index, params.model_dump(exclude={"n"})])
                if name not in self.held:
                    if self.die_after is not None and len(self.drawn) >= self.die_after:
                        raise Killed
                    text, cut = reply(request, index, params.seed, params.temperature)
                    self.held[name] = Sample(request.key, index, text, "length" if cut else "stop", len(text))
                    self.drawn.append(name)
                out[request.key].append(self.held[name])
        return out


def always(passed):
    return lambda answers: [Verdict(passed, float(passed), "always") for _ in answers]


def general(path, columns=None, ignore=()):
    """What `context.load` finds."""
    assert path == "general.jsonl"
    return [
        Row([{"role": "user", "content": f"Say {w}"}, {"role": "assistant", "content": w}]) for w in map(str, range(40))
    ]


@pytest.fixture
def world():
    """Rows, a journal, and `bench(judge=None, seed=0, journal=None, curator="", **sampling)`: a context.

    Its notes are counted in `notes`; what is left out is listed in `dropped`.
    """
    space = SimpleNamespace(
        rows=sums(), notes=Counter(), dropped=[], journal=Journal(), Journal=Journal, Killed=Killed, always=always
    )

    def bench(judge=None, seed=0, journal=None, curator="", **sampling):
        space.notes, space.dropped = Counter(), []
        return CurationContext(
            curator=curator,
            sample=(journal or space.journal).draw,
            judge=judge or Number().judge_all,
            sampling=SamplingParams(**sampling),
            seed=seed,
            load=general,
            note=lambda name, n: space.notes.update({name: n}),
            drop=lambda row, reason: space.dropped.append((row, reason)),
        )

    space.bench = bench
    return space
