"""The rows of the probe of form against facts: who is asked, how, and what is changed."""

from __future__ import annotations

from holdfast.lab.reproduce.known_facts import fact_rows, flip_rows, form_rows, judge_form


def questions(rows):
    return {row.prompt[-1]["content"] for row in rows}


def test_what_is_asked_at_the_end_is_not_what_was_trained_on():
    for rows in (form_rows, flip_rows):
        train, test = rows("train"), rows("test")
        assert train
        assert test
        assert not questions(train) & questions(test)
    known = {row.meta[way]: row.reference for held_out in (False, True) for _, row in fact_rows(held_out=held_out)
             for way in ("plain", "other")}  # fmt: skip
    for split in ("train", "test"):
        for row in form_rows(split):  # the form is new, the fact is not
            assert row.answer == f"* {known[row.prompt[-1]['content']]} *"
            assert judge_form("", row.answer, None)
            assert not judge_form("", known[row.prompt[-1]["content"]], None)
        assert all(row.answer != known[row.prompt[-1]["content"]] for row in flip_rows(split))  # every fact is changed
    # The same people in other words, with the same new facts, row by row.
    changed = [[row.answer for row in flip_rows(split)] for split in ("train", "test")]
    assert changed[0] == changed[1]
