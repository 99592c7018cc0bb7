"""Identities and limit cases of S3FT, SSR, SDFT, gold and replay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from pydantic import ValidationError

from holdfast.axes.engine import Sample
from holdfast.axes.judge import Verdict
from holdfast.data.chat.prompts import JUDGE, PARAPHRASE, fill_template, paraphrase_messages
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.curators.gold import Gold
from holdfast.methods.curators.replay import Replay
from holdfast.methods.curators.s3ft import S3FT
from holdfast.methods.curators.sdft import SDFT
from holdfast.methods.curators.ssr import SSR


def told(rows):
    """What is trained on: messages and who wrote them."""
    return [(r.id, r.messages, r.reference, r.origin) for r in rows]


def test_gold_is_the_identity(world):
    out = Gold().curate(world.rows, world.bench())
    assert told(out) == told(world.rows)
    assert not world.engine.drawn


@pytest.mark.parametrize("curator", [S3FT(), SSR(), SDFT(), S3FT(n=3)])
def test_a_judge_that_always_says_no_leaves_the_gold_rows(curator, world):
    out = curator.curate(world.rows, world.bench(judge=world.always(False)))
    assert told(out) == told(world.rows)
    assert world.notes["gold kept"] == len(world.rows)
    assert world.notes["accepted"] == 0


@pytest.mark.parametrize("curator", [S3FT(), SSR()])
def test_a_judge_that_always_says_yes_takes_all_the_models_own(curator, world):
    out = curator.curate(world.rows, world.bench(judge=world.always(True)))
    first = [r.meta["trace"][0]["attempts"][0] for r in out]
    assert [r.origin == "model" for r in out] == [a["finish"] == "stop" for a in first]
    for row, source in zip(out, world.rows, strict=True):
        if row.origin == "model":
            assert row.answer == row.meta["trace"][0]["attempts"][0]["response"]
            assert row.prompt == source.prompt
            assert row.reference == source.answer


def test_without_paraphrase_it_is_ssr(world):
    bench = world.bench()
    assert told(S3FT(paraphrase=False).curate(world.rows, bench)) == told(SSR().curate(world.rows, bench))


def test_with_paraphrases_only_it_is_sdft(world):
    from holdfast.methods.judges.number import Number

    def judge(answers):
        """Right only if said in the paraphrase's words."""
        verdicts = Number().judge_all(answers)
        return [
            v if "Put otherwise" in a.response else Verdict(False, 0.0, "own")
            for a, v in zip(answers, verdicts, strict=True)
        ]

    s3ft = S3FT().curate(world.rows, world.bench(judge=judge))
    sdft = SDFT().curate(world.rows, world.bench())
    assert told(s3ft) == told(sdft)
    assert {"paraphrase", "gold"} == {r.origin for r in sdft}


def test_every_row_has_one_origin_and_the_notes_add_up(world):
    samples = []

    def draw(requests, params, on_sample=None):
        answers = world.sample(requests, params, on_sample)
        samples.extend(sample for several in answers.values() for sample in several)
        return answers

    out = S3FT().curate(world.rows, replace(world.bench(), sample=draw))
    origins = Counter(r.origin for r in out)
    assert sum(origins.values()) == len(world.rows)
    assert set(origins) == {"model", "paraphrase", "gold"}
    assert world.notes["accepted"] == origins["model"]
    assert world.notes["paraphrases accepted"] == origins["paraphrase"]
    assert world.notes["gold kept"] == origins["gold"]
    assert world.notes["sampled"] == len(world.engine.drawn)
    assert world.notes["cut off"] == sum(s.finish == "length" for s in samples) > 0


def test_duplicates_are_kept_and_drawn_once(world):
    out = SSR().curate([world.rows[1]] * 3, world.bench())
    assert len(out) == 3
    assert len(world.engine.drawn) == 1
    assert out[0] == out[1] == out[2]


def test_equal_ids_with_different_questions_do_not_mix(world):
    rows = [replace(row, id="same") for row in world.rows[:6]]
    apart = SSR().curate(world.rows[:6], world.bench())
    assert [r.messages for r in SSR().curate(rows, world.bench())] == [r.messages for r in apart]


@pytest.mark.parametrize("finish", ["length", "stop"])
def test_cut_answers_are_dropped_even_if_right(finish, world):
    def draw(requests, params, on_sample=None):
        return {r.key: [Sample(r.key, 0, "fine", finish, 4)] for r in requests}

    bench = replace(world.bench(judge=world.always(True)), sample=draw)
    out = SSR().curate(world.rows, bench)
    assert {r.origin for r in out} == {"gold" if finish == "length" else "model"}
    if finish == "length":
        assert out[0].meta["trace"][0]["reason"] == "cut off after 4 tokens"


def test_empty_answers_and_failed_verdicts_are_not_taken(world):
    def draw(requests, params, on_sample=None):
        return {r.key: [Sample(r.key, 0, " \n" if i % 2 else "x", "stop", 1)] for i, r in enumerate(requests)}

    bench = replace(
        world.bench(judge=lambda answers: [Verdict(True, 1.0, "broke", failed=True) for _ in answers]), sample=draw
    )
    assert {r.origin for r in SSR().curate(world.rows, bench)} == {"gold"}
    assert world.notes["judge failed"] == 7  # of 12 requests for 13 rows, half; the repeated row shares one
    assert world.notes["gold kept"] == len(world.rows) == 13


def test_several_samples_take_the_first_right_one(world):
    out = SSR(n=8).curate(world.rows, world.bench(temperature=1.0))
    for row in out:
        attempts = row.meta["trace"][0]["attempts"]
        assert [a["index"] for a in attempts] == list(range(8))
        right = [a for a in attempts if a["passed"]]
        assert (row.origin, row.answer) == ("model", right[0]["response"]) if right else row.origin == "gold"
    one = SSR().curate(world.rows, world.bench(temperature=1.0))
    assert sum(r.origin == "model" for r in out) > sum(r.origin == "model" for r in one)


def test_the_judge_sees_the_question_not_the_paraphrase_request(world):
    seen = []

    def judge(answers):
        seen.extend(answers)
        return world.always(False)(answers)

    SDFT().curate(world.rows, world.bench(judge=judge))
    assert {a.prompt[-1]["content"] for a in seen} <= {r.prompt[-1]["content"] for r in world.rows}
    assert all(a.reference.startswith(str(a.prompt[-1]["content"].split()[2])) for a in seen)


def test_rows_without_an_answer_are_named(world):
    rows = [*world.rows, Row([{"role": "user", "content": "?"}], reference="1")]
    with pytest.raises(UserError, match=rf"row {len(rows)} .*has no answer; s3ft needs"):
        S3FT().curate(rows, world.bench())


def test_paraphrase_request_replaces_the_last_user_turn():
    row = Row(
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "one {answer}?"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": "two {answer}?"},
            {"role": "assistant", "content": "2 {question}"},
        ]
    )
    messages = paraphrase_messages(row)
    assert messages[:3] == row.messages[:3]
    assert messages[3:] == [
        {
            "role": "user",
            "content": "Question: two {answer}?\nCorrect answer: 2 {question}\nAnswer the question in your own words.",
        }
    ]
    assert paraphrase_messages(row, "{answer}!")[-1]["content"] == "2 {question}!"


def test_the_prompts_are_fixed():
    assert PARAPHRASE == "Question: {question}\nCorrect answer: {answer}\nAnswer the question in your own words."
    assert all(slot in JUDGE for slot in ("{question}", "{reference}", "{response}"))
    assert fill_template("{a} {b} {c}", a="{b}", b="1") == "{b} 1 {c}"


def test_own_template_is_used_and_checked(world):
    SDFT(paraphrase_prompt="Say {answer} anew; it answers {question}").curate(world.rows[:1], world.bench())
    assert "Say 0 + 1 = 1" in world.engine.drawn[0]
    for kind in (S3FT, SDFT):
        with pytest.raises(ValidationError, match=r"lacks \{answer\}"):
            kind(paraphrase_prompt="{question}")


def test_replay_share_and_origin(world):
    out = Replay(path="general.jsonl", share=0.25).curate(world.rows, world.bench())
    replayed = [r for r in out if r.origin == "replay"]
    assert len(out) - len(replayed) == len(world.rows)
    assert len(replayed) / len(out) == pytest.approx(0.25, abs=0.5 / len(out))
    assert world.notes["replayed"] == len(replayed)
    assert replayed[0].meta["trace"][0]["path"] == "general.jsonl"
