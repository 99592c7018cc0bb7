"""A small world for curators: rows of sums, a scripted model, a journal that can be killed, a context."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from holdfast.axes.curator import CurationContext
from holdfast.axes.engine import Sample, SamplingParams
from holdfast.axes.judge import Verdict
from holdfast.methods.judges.number import Number
from holdfast.testing.curation_world import general_rows, scripted_answer, sum_rows


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
                    text, cut = scripted_answer(request, index, params.seed, params.temperature)
                    self.held[name] = Sample(request.key, index, text, "length" if cut else "stop", len(text))
                    self.drawn.append(name)
                out[request.key].append(self.held[name])
        return out


def always(passed):
    return lambda answers: [Verdict(passed, float(passed), "always") for _ in answers]


@pytest.fixture
def world():
    """Rows, a journal, and `bench(judge=None, seed=0, journal=None, curator="", **sampling)`: a context.

    Its notes are counted in `notes`; what is left out is listed in `dropped`.
    """
    space = SimpleNamespace(
        rows=sum_rows(), notes=Counter(), dropped=[], journal=Journal(), Journal=Journal, Killed=Killed, always=always
    )

    def bench(judge=None, seed=0, journal=None, curator="", **sampling):
        space.notes, space.dropped = Counter(), []
        return CurationContext(
            curator=curator,
            sample=(journal or space.journal).draw,
            judge=judge or Number().judge_all,
            sampling=SamplingParams(**sampling),
            seed=seed,
            load=lambda *args, **kwargs: general_rows(),
            note=lambda name, n: space.notes.update({name: n}),
            drop=lambda row, reason: space.dropped.append((row, reason)),
        )

    space.bench = bench
    return space
