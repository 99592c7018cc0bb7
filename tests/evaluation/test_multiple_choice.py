"""Multiple-choice files in the shapes they are published in, and how a choice becomes a score."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import UserError
from holdfast.evaluation.tasks.multiple_choice import append_choice, decide_choice, is_choice, parse_choice_rows

SHAPES = {
    "list and number": {"question": "2+2?", "choices": ["3", "4"], "answer": 1},
    "list and letter": {"question": "2+2?", "choices": ["three", "four"], "answer": "B"},
    "list and text": {"question": "2+2?", "choices": ["three", "four"], "answer": "four"},
    "as it is trained on": {"prompt": "2+2?", "choices": ["three", "four"], "completion": "four"},
    "arc of the hub": {"question": "2+2?", "choices": {"text": ["3", "4"], "label": ["1", "2"]}, "answerKey": "2"},
    "arc as published": {
        "id": "Mercury_1", "answerKey": "B",
        "question": {"stem": "2+2?", "choices": [{"text": "3", "label": "A"}, {"text": "4", "label": "B"}]},
    },
    "lettered columns": {"question": "2+2?", "A": "3", "B": "4", "C": "", "answerKey": "B"},
    "hellaswag": {"ctx": "2+2 is", "endings": ["3", "4"], "label": "1"},
    "truthfulqa mc1": {"question": "2+2?", "mc1_targets": {"choices": ["3", "4"], "labels": [0, 1]}},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_published_shapes(shape: str):
    assert is_choice(SHAPES[shape])
    (row,) = parse_choice_rows([("f.jsonl:1", SHAPES[shape])])
    assert row.prompt[0]["content"].startswith("2+2")
    assert row.meta["choices"][row.reference] in ("4", "four")


def test_truthfulqa_with_many_true_answers():
    targets = {"choices": ["a", "b", "c"], "labels": [1, 0, 1]}
    (row,) = parse_choice_rows([("f:1", {"question": "Which?", "mc2_targets": targets})])
    picked, score, passed = decide_choice(np.log([0.2, 0.6, 0.2]), row.meta["choices"], row.reference)
    assert (picked, passed) == (1, False)
    assert score == pytest.approx(0.4)
    record = {"Question": "Q?", "Best Answer": "yes", "Correct Answers": "yes", "Incorrect Answers": "no; maybe"}
    (row,) = parse_choice_rows([("f:1", record)])
    assert row.meta["choices"] == ["yes", "no", "maybe"]
    assert row.reference == 0


def test_open_questions_are_no_choice():
    assert not is_choice({"question": "2+2?", "answer": "4"})
    assert not is_choice({"instruction": "Add.", "input": "2 2", "output": "4"})


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"question": "q", "choices": ["a", "b"]}, "no right answer"),
        ({"question": "q", "choices": ["a", "b"], "answer": "C"}, "none of the 2 choices"),
        ({"choices": ["a", "b"], "answer": 0}, "no question"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "fewer than two"),
    ],
)
def test_errors_name_the_row(record: dict, says: str):
    with pytest.raises(UserError, match=f"arc.jsonl:7: .*{says}"):
        parse_choice_rows([("arc.jsonl:7", record)])


def test_length_normalisation_changes_the_pick():
    logps, choices = np.array([-4.0, -6.0]), ["yes", "certainly not"]
    assert decide_choice(logps, choices, 0)[:2] == (0, 1.0)
    assert decide_choice(logps, choices, 1, "length")[:2] == (1, 1.0)


def test_a_tie_or_a_broken_model_is_not_right():
    for values in ([-1.0, -1.0, -1.0], [np.nan] * 3, [-np.inf] * 3):
        assert [decide_choice(np.array(values), ["a", "b", "c"], gold)[2] for gold in range(3)] == [False] * 3


def test_only_the_choice_is_scored_after_few_shot_turns():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    full = append_choice(turns, "b")
    assert [m.get("weight", 1) for m in full if m["role"] == "assistant"] == [0, 1]
    assert "weight" not in turns[1]
