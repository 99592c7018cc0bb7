"""The world of the shared suite for the curators' own tests: with other judges, settings and rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from holdfast.axes.engine import SamplingParams
from holdfast.axes.judge import Verdict
from holdfast.generation.journal import Journal
from holdfast.methods.curators.gold import Gold
from holdfast.testing.curation_world import CurationWorld, sum_rows


def always(passed):
    return lambda answers: [Verdict(passed, float(passed), "always") for _ in answers]


@pytest.fixture
def world():
    """Rows, the scripted `engine`, and `bench(judge=None, seed=0, curator="", **sampling)`: a context.

    All contexts share a journal; `sample` is its. Notes of the last are counted in `notes`; what it left out is listed
    in `dropped`.
    """
    inner = CurationWorld()
    space = SimpleNamespace(rows=sum_rows(), notes=Counter(), dropped=[], engine=inner.engine, always=always)
    with Journal(None) as journal:
        space.sample = journal.build_sample_fn(inner.engine)

        def bench(judge=None, seed=0, curator="", **sampling):
            space.notes, space.dropped = inner.notes, inner.dropped = Counter(), []
            context = inner.build_context(Gold(), journal, seed)
            judge = judge or context.judge
            return replace(context, curator=curator, judge=judge, sampling=SamplingParams(**sampling))

        space.bench = bench
        yield space
