"""Thought and answer of a model's text."""

from __future__ import annotations

import pytest

from holdfast.data.rows import Row
from holdfast.data.thoughts import MARKS, Reply, final_answer, split_thought

CASES = [
    # text, thought, answer, ended
    ("7", "", "7", True),
    ("", "", "", True),
    ("<think>\nFirst 5. No.\n</think>\n\n7", "First 5. No.", "7", True),
    ("  \n<think>5?</think>7", "5?", "7", True),
    ("5? No.</think>\n\n7", "5? No.", "7", True),  # the prompt opened the thought
    ("<think>\n\n</think>\n\nParis", "", "Paris", True),
    ("<think>\n5? Hmm, or", "5? Hmm, or", "", False),
    ("<think>", "", "", False),
    ("<think>a</think>", "a", "", True),
    ("<think>a</think>\n<think>b</think>\n7", "a\n\nb", "7", True),
    ("<think>a</think>\n<think>b", "a\n\nb", "", False),
    ("<think>a</think>\n\n    return 1\n", "a", "    return 1\n", True),  # a completion keeps its indentation
    ("The tag <think> opens a thought.", "", "The tag <think> opens a thought.", True),
    ("Write <think> and </think>.", "", "Write <think> and </think>.", True),
    ("<think>a</think>Write </think> last.", "a", "Write </think> last.", True),
    ("See </thinking>.", "", "See </thinking>.", True),
    (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>7",
        "a", "7", True,
    ),
    ("<|channel|>final<|message|>7", "", "7", True),
]  # fmt: skip


def test_a_text_is_taken_apart_at_the_end_of_its_thought() -> None:
    for text, thought, answer, ended in CASES:
        found = split_thought(text)
        assert (found.thought, found.answer, found.has_ended) == (thought, answer, ended), text
        assert final_answer(text) == answer


@pytest.mark.parametrize("marks", MARKS, ids=lambda m: m[0].strip())
def test_every_familys_marks_are_known(marks: tuple[str, str]) -> None:
    assert split_thought(f"{marks[0]}5{marks[1]}7") == Reply("5", "7", True, marks)
    assert split_thought(f"{marks[0]}5") == Reply("5", "", False, marks)


def test_long_texts_take_no_longer_than_their_length() -> None:
    text = "<think>" * 100_000 + " " * 100_000 + "</think>" * 100_000
    assert split_thought(text).has_ended


def test_the_reference_of_a_row_is_its_answer_without_the_thought() -> None:
    prompt = [{"role": "user", "content": "Add 3 and 4."}]
    answer = {"role": "assistant", "content": "<think>3 + 4</think>\n\n7"}
    assert Row([*prompt, answer]).gold == "7"
    assert Row(prompt, chosen="<think>3 + 4</think>7", rejected="8").gold == "7"
    assert Row([*prompt, answer], reference="7.0").gold == "7.0"
    assert Row(prompt).gold is None
