"""Word problems of graded difficulty: both paths lead to the same end, and what is wrong is wrong at one step."""

from __future__ import annotations

import random
import re

from holdfast.axes.judge import JudgeRequest
from holdfast.lab.describe import measure_skills
from holdfast.lab.drills import WithMistakes
from holdfast.skills import load_skill
from holdfast.skills.story_graded import OPERATIONS, group_steps, make_mistake, rate_of_mistakes, write_steps_again

GRADED = load_skill("story-graded")
SUM = re.compile(r"(\d+) ?([-+*]) ?(\d+) ?= ?(\d+)")


def wrong_steps(answer: str) -> int:
    """How many of the sums an answer writes are not right."""
    return sum(OPERATIONS[op](int(a), int(b)) != int(c) for a, op, b, c in SUM.findall(answer))


def test_the_other_path_has_other_steps_and_the_same_end():
    rng, other = random.Random(0), 0
    for _ in range(200):
        steps = GRADED.generate_question(rng).facts["steps"]
        grouped = group_steps(steps)
        assert grouped[-1][3] == steps[-1][3]
        assert all(OPERATIONS[op](a, b) == result >= 0 for a, op, b, result, _ in grouped)
        other += [step[:4] for step in grouped] != [step[:4] for step in steps]
    assert other > 100


def test_a_rejected_answer_is_wrong_at_one_step_and_goes_on_from_there():
    for row in GRADED.generate_rows(200, "train", 0, form="pair"):
        assert wrong_steps(row.chosen) == 0
        assert wrong_steps(row.rejected) == 1, row.rejected


def test_a_mistake_is_carried_on():
    steps = [(30, "+", 5, 35, "Ann has 35"), (30, "+", 35, 65, "together")]
    again = write_steps_again(steps, lambda number, a, operator, b: 34 if number == 0 else None)
    assert again == [(30, "+", 5, 34, "Ann has 34"), (30, "+", 34, 64, "together")]
    assert write_steps_again(steps, lambda *step: None) == steps


def test_mistakes_are_wrong_and_come_as_often_as_the_step_says():
    rng = random.Random(0)
    for a, operator, b in ((17, "+", 5), (12, "+", 5), (52, "-", 7), (58, "-", 7), (9, "-", 8), (4, "*", 8)):
        assert all(0 <= make_mistake(rng, a, operator, b) != OPERATIONS[operator](a, b) for _ in range(50))
    assert rate_of_mistakes(52, "-", 7) > rate_of_mistakes(32, "-", 7) > rate_of_mistakes(17, "+", 5)
    assert rate_of_mistakes(17, "+", 5) > rate_of_mistakes(58, "-", 7)
    drill = WithMistakes()
    rates = []
    for _ in range(100):
        question = drill.generate_question(rng)
        tries = [drill.write_answer(question, "plain", rng) for _ in range(10)]
        asked = [JudgeRequest(question.messages, answer, question.reference) for answer in tries]
        rates.append(sum(verdict.passed for verdict in GRADED.judge_all(asked)) / 10)
    assert sum(0.1 <= rate <= 0.9 for rate in rates) > 50


def test_solve_rates_are_counted():
    report = measure_skills("lab-small", skills=["strings", "story-graded"], items=6, samples=4)
    strings, story = report["skills"]
    assert [strings["name"], story["name"]] == ["strings", "story-graded"]
    assert len(story["solved"]) == 5
    assert sum(story["solved"]) == sum(strings["solved"]) == 6
    assert strings["solved"][-1] >= 3
    assert story["between"] == 100 * sum(story["solved"][1:4]) / 6
