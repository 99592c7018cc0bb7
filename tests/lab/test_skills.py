"""Every skill: its answers are right in whatever style, spoilt ones are wrong, and train and test never meet."""

from __future__ import annotations

import itertools
import random

import pytest

from holdfast.axes.judge import JudgeRequest
from holdfast.skills import SKILLS, load_skill
from holdfast.skills.facts import LEVELS, Facts, exposure_level

ALL = [*sorted(SKILLS), "story-graded"]


@pytest.mark.parametrize("name", ALL)
def test_every_style_is_right(name):
    known, rng = load_skill(name), random.Random(0)
    styles = {*known.styles, *([known.gold] if known.gold else [])}
    for style in sorted(styles):
        questions = [known.draw_question(rng, "test") for _ in range(20)]
        answers = [JudgeRequest(q.messages, known.write_answer(q, style, rng), q.reference) for q in questions]
        assert all(verdict.passed for verdict in known.judge_all(answers)), style


@pytest.mark.parametrize("name", ALL)
def test_the_answer_to_another_question_is_mostly_wrong(name):
    known, rng = load_skill(name), random.Random(1)
    rows = known.generate_rows(40, "test", 0)
    answers = [JudgeRequest(row.prompt, other.answer, row.reference) for row, other in itertools.pairwise(rows)]
    assert sum(verdict.passed for verdict in known.judge_all(answers)) <= 0.6 * len(answers)
    pairs = [known.generate_preference_row(rng, "train") for _ in range(10)]
    spoilt = [JudgeRequest(row.prompt, row.rejected, row.reference) for row in pairs]
    assert not any(verdict.passed for verdict in known.judge_all(spoilt))


@pytest.mark.parametrize("name", ALL)
def test_rows_repeat_by_seed_and_splits_never_meet(name):
    known = load_skill(name)
    train, test = known.generate_rows(150, "train", 0), known.generate_rows(150, "test", 0)
    assert [r.to_json() for r in known.generate_rows(150, "train", 0)] == [r.to_json() for r in train]
    assert not {str(r.prompt) for r in train} & {str(r.prompt) for r in test}
    if len(train) == 150:
        assert [r.prompt for r in known.generate_rows(150, "train", 1)] != [r.prompt for r in train]


def test_facts_are_shown_exactly_as_often_as_their_level_says():
    shown: dict[str, int] = {}
    for cycle in (0, 1):
        for question in Facts().generate_exposures(0, cycle):
            assert question.split == "train"
            subject, relation, _ = question.key.split("/")
            shown[f"{subject}/{relation}"] = shown.get(f"{subject}/{relation}", 0) + 1
    assert {exposure_level(key.split("/")[0]) for key in shown} == set(LEVELS) - {0}
    assert all(times == exposure_level(key.split("/")[0]) for key, times in shown.items())
