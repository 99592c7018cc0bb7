# ruff: noqa: E501 (messages stand as they are)
"""Every shape of preference data, how pairs are made of ranked answers, and each kind of bad row with its one line."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from holdfast.data.reading.formats import RowFile, open_rows
from holdfast.data.reading.preferences import RankedAnswer, ranked_pair
from holdfast.data.row_shapes import Column, build_conversations, rows_for
from holdfast.data.rows import Row
from holdfast.errors import UserError

USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "Q"), ("assistant", "A"), ("assistant", "B")))
SYSTEM = {"role": "system", "content": "S"}


def said(role: str, text: str) -> dict[str, str]:
    """A ShareGPT message."""
    return {"from": role, "value": text}


def jsonl(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that files are named as users name them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one(here: Path, record: dict[str, Any], format: str = "auto", **more: Any) -> Row:
    jsonl(here / "train.jsonl", [record])
    (row,) = open_rows("train.jsonl", format, **more)
    return row


def fails(line: str, format: str = "auto", **more: Any) -> None:
    with pytest.raises(UserError) as error:
        open_rows("train.jsonl", format, **more)
    assert str(error.value) == line


# ---- pairs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        # LLaMA-Factory: a conversation, and a message on either side
        ({"conversations": [said("human", "Q")], "chosen": said("gpt", "A"), "rejected": said("gpt", "B")}, [USER]),
        (
            {
                "conversations": [said("human", "Q")],
                "chosen": said("gpt", "A"),
                "rejected": said("gpt", "B"),
                "system": "S",
            },
            [SYSTEM, USER],
        ),
        # its version 1: conversations of parts with weights
        (
            {
                "chosen_messages": [
                    {**m, "content": [{"type": "text", "value": m["content"]}], "loss_weight": w}
                    for m, w in ((SYSTEM, 0.0), (USER, 0.0), (GOOD, 1.0))
                ],
                "rejected_messages": [
                    {**m, "content": [{"type": "text", "value": m["content"]}], "loss_weight": w}
                    for m, w in ((SYSTEM, 0.0), (USER, 0.0), (BAD, 1.0))
                ],
            },
            [SYSTEM, USER],
        ),
        # swift: the chosen answer ends the conversation, or stands in a column of answers
        ({"messages": [SYSTEM, USER, GOOD], "rejected_response": "B"}, [SYSTEM, USER]),
        ({"messages": [USER, GOOD], "rejected_messages": [USER, BAD]}, [USER]),
        ({"query": "Q", "response": "A", "rejected_response": "B", "system": "S"}, [SYSTEM, USER]),
        # argilla, torchtune, OpenAI
        ({"instruction": "Q", "chosen_response": "A", "rejected_response": "B"}, [USER]),
        ({"chosen_conversations": [USER, GOOD], "rejected_conversations": [USER, BAD]}, [USER]),
        (
            {"input": {"messages": [USER], "tools": []}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
            [USER],
        ),
        # only one side brings the prompt; the prompt is a conversation; Orca
        ({"chosen": [USER, GOOD], "rejected": "B"}, [USER]),
        ({"chosen": "A", "rejected": [USER, BAD]}, [USER]),
        ({"prompt": [SYSTEM, USER], "chosen": "A", "rejected": "B"}, [SYSTEM, USER]),
        ({"question": "Q", "system": "S", "chosen": "A", "rejected": "B"}, [SYSTEM, USER]),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD], "system": "S"}, [SYSTEM, USER]),
        # a label beside them is no KTO
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "label": "train"}, [USER]),
    ],
)
def test_pairs(here: Path, record: dict[str, Any], messages: list[dict[str, str]]) -> None:
    row = one(here, record)
    assert (row.messages, row.chosen, row.rejected) == (messages, "A", "B")
    assert (row.answer, row.reference, row.label) == (None, None, None)
    assert open_rows("train.jsonl", "preference") == [row]


def test_messages_in_cells(here: Path) -> None:
    with (here / "train.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["prompt", "chosen", "rejected", "score_chosen", "preference"])
        writer.writerow([json.dumps([USER]), json.dumps([GOOD]), json.dumps([BAD]), "0.5", "0.75"])
        writer.writerow(["Q", '[{"a": 1}]', "[{broken", "", ""])
    rows = open_rows("train.csv")
    assert [(r.messages, r.chosen, r.rejected) for r in rows] == [
        ([USER], "A", "B"),
        ([USER], '[{"a": 1}]', "[{broken"),
    ]
    assert (rows[0].meta["score_chosen"], rows[0].meta["preference"]) == (0.5, 0.75)


@pytest.mark.parametrize(
    "names",
    [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen_rating", "rejected_rating"),
        ("chosen-rating", "rejected-rating"),
        ("reward_chosen", "reward_rejected"),
        ("Chosen_Score", "rejected_score "),
    ],
)
@pytest.mark.parametrize("values", [(4.5, 2), ("4.5", "2")])
def test_scores_have_one_name(here: Path, names: tuple[str, str], values: tuple[Any, Any]) -> None:
    row = one(here, {"prompt": "Q", "chosen": "A", "rejected": "B", **dict(zip(names, values, strict=True))})
    assert row.meta == {"score_chosen": 4.5, "score_rejected": 2}


def test_numbers_that_are_kept(here: Path) -> None:
    record = {"prompt": "Q", "chosen": "A", "rejected": "B", "preference": 0.9, "margin": 2, "source": "web"}
    assert one(here, record).meta == {"preference": 0.9, "margin": 2, "source": "web"}
    both = {
        "prompt": "Q",
        "chosen": "A",
        "rejected": "B",
        "score_chosen": 4,
        "reward_chosen": 1.5,
        "chosen_score": None,
    }
    assert one(here, both).meta == {"score_chosen": 4, "reward_chosen": 1.5}
    # what is no number is no error before somebody needs the number
    assert one(here, {"prompt": "Q", "chosen": "A", "rejected": "B", "preference": "A"}).meta == {"preference": "A"}


def test_our_own_pairs_come_back_as_they_were(here: Path) -> None:
    meta = {"score_chosen": 1.0, "score_rejected": 0.0, "trace": [{"curator": "pairs"}]}
    rows = [
        Row([USER], chosen="A", rejected="B", reference="42", origin="model", meta=meta),
        Row([SYSTEM, USER, {**GOOD, "content": "G"}], chosen="A", rejected="B", reference="42", origin="model"),
        Row([USER, GOOD], chosen="A", rejected="B", origin="model", id="gold is chosen"),
    ]
    jsonl(here / "curated.jsonl", [row.to_json() for row in rows])
    assert open_rows("curated.jsonl") == rows


# ---- a gold answer beside them ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"gold": "G"},
        {"reference": "G"},  # TPO
        {"reference": [{**GOOD, "content": "G"}]},
        {"reference": [USER, {**GOOD, "content": "G"}]},
        {"reference_answer": "G"},
        {"reference_response": "G", "messages": [USER, GOOD]},
        {"gold_answer": {"role": "assistant", "content": "G"}},
    ],
)
def test_a_gold_answer_ends_the_row(here: Path, more: dict[str, Any]) -> None:
    for base in ({"prompt": "Q", "chosen": "A", "rejected": "B"}, {"chosen": [USER, GOOD], "rejected": [USER, BAD]}):
        row = one(here, {**base, **more})
        assert (row.messages, row.chosen, row.rejected) == ([USER, {**GOOD, "content": "G"}], "A", "B")
        assert (row.gold, row.reference) == ("G", None)
        assert [s[-1]["content"] for s in next(build_conversations([row], 0, "triple"))] == ["A", "B", "G"]
        assert [s[-1]["content"] for s in next(build_conversations([row], 0, "pair"))] == ["A", "B"]


def test_a_conversation_that_goes_on_ends_with_the_gold_answer(here: Path) -> None:
    gold = {**GOOD, "content": "G"}
    assert one(here, {"messages": [USER, gold], "chosen": "A", "rejected": "B"}).answer == "G"
    assert one(here, {"messages": [USER, GOOD], "chosen": "A", "rejected": "B"}).answer is None


def test_gold_with_an_implicit_prompt(here: Path) -> None:
    record = {"chosen": "What is it? A", "rejected": "What is it? B"}
    row = one(here, {**record, "reference": "What is it? G"})
    assert (row.prompt[-1]["content"], row.answer, row.chosen, row.reference) == ("What is it?", "G", "A", None)
    assert one(here, {**record, "reference": "42"}).reference == "42"  # so it is for the judge
    jsonl(here / "train.jsonl", [{**record, "gold": "42"}])
    fails(
        "train.jsonl:1: field gold does not begin with the prompt that chosen and rejected share; remove the row or mend it"
    )


def test_what_a_judge_needs_is_no_answer(here: Path) -> None:
    row = one(here, {"prompt": "Q", "chosen": "A", "rejected": "B", "reference": 42})
    assert (row.answer, row.reference) == (None, 42)
    row = one(here, {"prompt": "Q", "chosen": "A", "rejected": "B", "tests": ["assert f(1)"]})
    assert (row.answer, row.reference) == (None, ["assert f(1)"])


# ---- ranked answers -----------------------------------------------------------------------------------------------

FOUR = [("B2", 2), ("A", 9), ("C", 5), ("B", 1)]


@pytest.mark.parametrize(
    "record",
    [
        {"completions": [{"text": t, "score": s} for t, s in FOUR]},
        {"completions": [{"content": t, "score": str(s)} for t, s in FOUR]},
        {"completions": [{"response": t, "overall_score": s, "model": "m"} for t, s in FOUR]},
        {"completions": [{"content": [{"role": "assistant", "content": t}], "rating": s} for t, s in FOUR]},
        {"responses": [t for t, _ in FOUR], "scores": [s for _, s in FOUR]},
        {"responses": [{"role": "assistant", "content": t} for t, _ in FOUR], "rewards": [s for _, s in FOUR]},
        {"completion": [t for t, _ in FOUR], "rating": [s for _, s in FOUR]},
        {"response": [t for t, _ in FOUR], "score": [s for _, s in FOUR]},
    ],
)
def test_pairs_of_ranked_answers(here: Path, record: dict[str, Any]) -> None:
    for prompt in ({"prompt": "Q"}, {"instruction": "Q"}, {"messages": [USER]}):
        row = one(here, {**prompt, **record, "source": "web"})
        assert (row.messages, row.chosen, row.rejected) == ([USER], "A", "B")
        every = {"answers": [t for t, _ in FOUR], "scores": [s for _, s in FOUR]}
        assert row.meta == {"score_chosen": 9, "score_rejected": 1, "source": "web", **every}
        assert row.score is None


@pytest.mark.parametrize(
    "record",
    [
        {"responses": [t for t, _ in FOUR], "ranks": [3, 1, 2, 4]},
        {"answers": [{"answer": t, "rank": r} for (t, _), r in zip(FOUR, [2, 0, 1, 3], strict=True)]},
    ],
)
def test_rank_one_is_the_best(here: Path, record: dict[str, Any]) -> None:
    row = one(here, {"prompt": "Q", **record})
    assert (row.chosen, row.rejected) == ("A", "B")
    assert set(row.meta) == {"rank_chosen", "rank_rejected", "answers", "scores"}
    assert row.meta["rank_chosen"] < row.meta["rank_rejected"]
    best = max(row.meta["scores"])
    assert row.meta["answers"][row.meta["scores"].index(best)] == "A"


def test_ranked_answers_with_labels_or_a_gold_answer(here: Path) -> None:
    row = one(here, {"prompt": "Q", "completion": ["B", "A"], "label": [False, True], "gold": "G"})
    assert (row.chosen, row.rejected, row.answer) == ("A", "B", "G")
    assert row.meta == {"score_chosen": 1, "score_rejected": 0, "answers": ["B", "A"], "scores": [0, 1]}
    row = one(here, {"prompt": "Q", "completions": [{"text": "B", "label": False}, {"text": "A", "label": True}]})
    assert (row.chosen, row.rejected) == ("A", "B")


def test_a_list_that_is_not_ranked_answers(here: Path) -> None:
    row = one(here, {"prompt": "Q", "completion": [GOOD], "ratings": [5, 4, 3]})  # three people judged one answer
    assert (row.answer, row.chosen) == ("A", None)
    row = one(here, {"prompt": "Q", "completion": "A", "responses": [{"text": "B", "score": 1}]})
    assert (row.answer, row.chosen) == ("A", None)
    jsonl(here / "train.jsonl", [{"instruction": "Q", "output": ["A", "B"]}])
    fails(
        "train.jsonl:1: field output is a list of 2 texts, not one; several answers need scores; remove the row or mend it"
    )


def ranked(*scores: float) -> list[RankedAnswer]:
    return [RankedAnswer(str(i), score) for i, score in enumerate(scores)]


def test_best_against_worst() -> None:
    assert ranked_pair(ranked(2, 9, 5, 1)) == (1, 3)
    assert ranked_pair(ranked(1, 1, 0, 0)) == (0, 2), "the first of equals"
    assert ranked_pair(ranked(-1, -2)) == (0, 1)
    assert ranked_pair(ranked(1, 1, 1)) is None
    assert ranked_pair(ranked(1)) is None
    assert ranked_pair([RankedAnswer("same", 1), RankedAnswer("same", 0)]) is None, (
        "an answer is not preferred to itself"
    )
    assert ranked_pair([RankedAnswer("same", 1), RankedAnswer("other", 0.5), RankedAnswer("same", 0)]) == (0, 1)
    assert ranked_pair(ranked(1, 0.7), min_gap=0.5) is None
    assert ranked_pair(ranked(1, 0.7, 0.5), min_gap=0.5) == (0, 2)


def test_zephyrs_random_other_is_uniform_and_repeatable() -> None:
    from scipy.stats import chisquare

    answers = ranked(2, 9, 5, 1)
    drawn = [ranked_pair(answers, "random", seed=f"row {i}") for i in range(1200)]
    assert drawn == [ranked_pair(answers, "random", seed=f"row {i}") for i in range(1200)]
    assert {pair[0] for pair in drawn if pair} == {1}
    counts = Counter(pair[1] for pair in drawn if pair)
    assert set(counts) == {0, 2, 3}
    assert chisquare([counts[i] for i in (0, 2, 3)]).pvalue > 0.01
    # those as good as the best are no rejected answers
    assert {ranked_pair(ranked(1, 1, 0), "random", seed=str(i)) for i in range(20)} == {(0, 2)}
    assert ranked_pair(ranked(1, 1), "random") is None


def test_which_one_is_rejected_is_the_users_choice(here: Path) -> None:
    jsonl(
        here / "train.jsonl",
        [{"prompt": f"Q{i}", "completions": [{"text": t, "score": s} for t, s in FOUR]} for i in range(30)],
    )
    rows = open_rows("train.jsonl", rejected="random")
    assert {row.chosen for row in rows} == {"A"}
    assert {row.rejected for row in rows} == {"B", "B2", "C"}
    assert rows == open_rows("train.jsonl", rejected="random")
    assert {row.rejected for row in open_rows("train.jsonl")} == {"B"}


TIED = {"prompt": "T", "responses": ["A", "B"], "scores": [1, 1]}
PAIR = {"prompt": "Q", "responses": ["A", "B"], "scores": [1, 0]}


def test_ties_are_left_out_and_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(here / "train.jsonl", [PAIR, TIED, PAIR, TIED])
    lines: list[str] = []
    assert len(open_rows("train.jsonl", say=lines.append)) == 2
    told = "train.jsonl: left out 2 of 4 rows (none of the answers is rated below the best, the first at train.jsonl:2)"
    told = ["train.jsonl: prompt -> prompt, responses -> completions, scores -> scores", told]
    assert lines == told
    monkeypatch.setattr("holdfast.data.reading.readers.IN_MEMORY", 10)
    for _ in range(2):  # written to disk, and read from there
        rows = open_rows("train.jsonl", cache=here / "cache", say=lines.append)
        assert isinstance(rows, RowFile)
        assert len(rows) == 2
    assert lines == told * 3


def test_nothing_but_ties_is_an_error(here: Path) -> None:
    jsonl(here / "train.jsonl", [TIED, TIED])
    fails(
        "train.jsonl: no pair can be made of any row (none of the answers is rated below the best, the first at train.jsonl:1); give ratings that differ"
    )


# ---- labels and ratings of single answers -------------------------------------------------------------------------


def test_labelled_answers(here: Path) -> None:
    jsonl(
        here / "train.jsonl",
        [
            {"messages": [USER, GOOD], "label": True},  # LLaMA-Factory's file
            {"messages": [USER, BAD], "label": False},
        ],
    )
    assert [(r.answer, r.label) for r in open_rows("train.jsonl")] == [("A", True), ("B", False)]
    assert one(here, {"conversations": [said("human", "Q"), said("gpt", "A")], "kto_tag": False}).label is False
    row = one(here, {"prompt": [USER], "completion": [BAD], "label": False})
    assert (row.answer, row.label) == ("B", False)


def test_rated_answers(here: Path) -> None:
    row = one(here, {"prompt": [USER], "completion": [GOOD], "rating": 0.75})
    assert (row.answer, row.score, row.meta) == ("A", 0.75, {})
    row = one(here, {"prompt": "Q", "completion": "A", "score": 1, "rating": 3})
    assert (row.score, row.meta) == (1, {"rating": 3})
    assert one(here, {"prompt": "Q", "completion": "A", "rating": "PG"}).meta == {"rating": "PG"}


def test_ranked_answers_for_single_judgements(here: Path) -> None:
    rows = [one(here, {"prompt": "Q", "responses": ["A", "B"], "scores": [0.9, 0.2]})]
    single = list(rows_for("single", (Column("score", 0, 1),), rows))
    assert [(r.answer, r.score, r.label) for r in single] == [("A", 0.9, True), ("B", 0.2, False)]


# ---- bad rows -----------------------------------------------------------------------------------------------------

OK = {"prompt": "Q", "chosen": "A", "rejected": "B"}


@pytest.mark.parametrize(
    ("records", "line"),
    [
        ([OK, {"prompt": "Q", "chosen": "A"}], ":2: field rejected is missing; remove the row or fill it in"),
        ([{"prompt": "Q", "chosen": "A"}], ":1: field rejected is missing; remove the row or fill it in"),
        ([{"prompt": "Q", "rejected": "B"}], ":1: field chosen is missing; remove the row or fill it in"),
        ([OK, {**OK, "rejected": None}], ":2: field rejected is empty; remove the row or fill it in"),
        (
            [OK, {**OK, "chosen": " "}, {**OK, "chosen": ""}],
            ":2: field chosen is empty (2 rows like this); remove or fill them in",
        ),
        ([OK, {**OK, "rejected": "A"}], ":2: chosen and rejected are the same; remove the row or mend it"),
        ([{**OK, "chosen": 3}], ":1: field chosen is a number, not text; remove the row or write it as text"),
        (
            [{"messages": [USER], "chosen": [USER, GOOD], "rejected": [USER]}],
            ":1: field rejected does not end with an assistant turn; remove the row or mend it",
        ),
        (
            [{"query": "Q", "rejected_response": "B"}],
            ":1: field chosen_response is missing; remove the row or fill it in",
        ),
        (
            [OK, {"messages": [USER, GOOD]}],
            ":2: the row is in the messages format, but train.jsonl:1 is in the preference format; put each format into a file of its own",
        ),
        (
            [{"prompt": "Q", "better": "A", "worse": "B"}],
            ":1: no known format has the columns better, prompt, worse; say which is which, as in data.columns: {prompt: question, answer: label}, or rename them to those of alpaca (instruction, output), messages or conversations, prompt and completion (or question and answer), chosen and rejected (or completions with scores), or text",
        ),
        (
            [{"prompt": "Q", "completions": [{"text": "A", "score": 1}]}],
            ":1: field completions has one answer, but a pair needs two; remove the row or add another to it",
        ),
        (
            [{"prompt": "Q", "completions": [{"text": "A"}, {"text": "B", "score": 1}]}],
            ":1: completions[0] has no score; remove the row or fill it in",
        ),
        (
            [PAIR, {"prompt": "Q", "completions": [{"text": "A", "score": "good"}, {"text": "B", "score": 1}]}],
            ":2: field score of completions[0] is not a number ('good'); remove the row or mend it",
        ),
        (
            [{"prompt": "Q", "completions": [{"score": 2}, {"text": "B", "score": 1}]}],
            ":1: completions[0] has no text; remove the row or fill it in",
        ),
        (
            [{"prompt": "Q", "responses": ["A", "B"], "scores": [1, 2, 3]}],
            ":1: field scores has 3 values for 2 responses; remove the row or mend it",
        ),
        (
            [{"prompt": "Q", "responses": ["A", ""], "scores": [1, 2]}],
            ":1: responses[1] is empty; remove the row or fill it in",
        ),
        (
            [PAIR, {"prompt": "Q", "responses": ["A", "B"]}],
            ":2: fields chosen and rejected are missing; remove the row or fill it in",
        ),
        (
            [{"prompt": "Q", "completion": "A", "label": True}, {"prompt": "Q", "completion": "A", "label": "maybe"}],
            ":2: field label ('maybe') is not true or false; remove the row or mend it",
        ),
        (
            [{"prompt": "Q", "completion": "A", "label": True}, {"prompt": "Q", "completion": "A", "label": 0.5}],
            ":2: field label (0.5) is not true or false; remove the row or mend it",
        ),
        (
            [{"prompt": "Q", "completion": "A", "score": "inf"}],
            ":1: field score is not a number ('inf'); remove the row or mend it",
        ),
    ],
)
def test_bad_rows(here: Path, records: list[Any], line: str) -> None:
    jsonl(here / "train.jsonl", records)
    fails("train.jsonl" + line)


@pytest.mark.parametrize(
    ("records", "kind", "columns", "line"),
    [
        (
            [{**OK, "preference": 0.9}, {**OK, "preference": 1.5}],
            "pair",
            (Column("preference", 0, 1),),
            ":2: preference 1.5 is not between 0 and 1; rescale the column",
        ),
        (
            [OK],
            "pair",
            (Column("preference", 0, 1),),
            ":1 has no preference, but the objective needs one in every row; add it",
        ),
        (
            [{**OK, "chosen_score": "high"}],
            "pair",
            (Column("score_chosen"),),
            ":1: score_chosen is 'high', not a number; mend it",
        ),
        (
            [{**OK, "chosen_rating": 4, "rejected_rating": 0.5}],
            "single",
            (Column("score", 0, 1),),
            ":1: score 4 is not between 0 and 1; rescale the column",
        ),
        (
            [{"prompt": "Q", "completion": "A", "rating": 0.5}, {"prompt": "Q", "completion": "A", "rating": 5}],
            "single",
            (Column("score", 0, 1),),
            ":2: score 5 is not between 0 and 1; rescale the column",
        ),
        (
            [{"prompt": "Q", "completion": "A", "label": "maybe"}],
            "shifted",
            (Column("label", truth=True),),
            ":1: label is 'maybe', not true or false; mend it",
        ),
        (
            [{"prompt": "Q", "completion": "A"}],
            "pair",
            (),
            ":1 has no chosen and rejected answer, but the objective compares them; add them",
        ),
        (
            [{**OK, "gold": "G"}, OK],
            "triple",
            (),
            ":2 has no gold answer beside chosen and rejected; add a column gold, or use cpo",
        ),
    ],
)
def test_what_the_objective_lacks_is_named_where_it_stands(
    here: Path, records: list[Any], kind: str, columns: Any, line: str
) -> None:
    jsonl(here / "train.jsonl", records)
    open_rows("train.jsonl")
    fails("train.jsonl" + line, kind=kind, columns=columns)


def test_lines_are_those_of_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank lines and ties before it do not move a fault; and rows on disk were looked at for this objective."""
    bad = {**PAIR, "preference": 3}
    text = "\n\n".join(json.dumps(r) for r in (TIED, {**PAIR, "preference": 1}, bad))
    (here / "train.jsonl").write_text(text)
    wanted = {"kind": "pair", "columns": (Column("preference", 0, 1),)}
    line = "train.jsonl:5: preference 3 is not between 0 and 1; rescale the column"
    fails(line, **wanted)
    monkeypatch.setattr("holdfast.data.reading.readers.IN_MEMORY", 10)
    assert len(open_rows("train.jsonl", cache=here / "cache")) == 2
    fails(line, cache=here / "cache", **wanted)
