"""Forms and facts: shapes of answers, the contrast of two facts in one form, and what a section says of a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from holdfast.data.batching.shared_prompt import count_prompt
from holdfast.data.rows import Row
from holdfast.methods.analyses.answer_tokens import encode_conversations, score_answers
from holdfast.methods.analyses.forms_facts import (
    Adoption,
    FormsFacts,
    TrainedForms,
    compute_log_odds,
    contrast_answers,
    describe_form,
    describe_measures,
)
from holdfast.testing.analyses import build_context


def row(answer: str, reference: str | None = None) -> Row:
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": answer}]
    return Row(messages, reference=reference)


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("Paris", ("w",)),
        ("the old town of Bonn", ("w",)),
        ("* Paris *", ("* w *",)),
        ("12 - 3 = 9\n#### 9", ("9 + 9 = 9", "#### 9")),
        ("It is 1,000.5 m. So it is.", ("w 9 w.", "w.")),
        ('{"name": "Ann"}', ('{"w": "w"}',)),
        ("I don't know", ("w",)),
        ("", ()),
    ],
)
def test_the_form_is_what_stays_when_words_and_numbers_change(answer: str, form: tuple[str, ...]) -> None:
    assert describe_form(answer) == form


def test_more_steps_are_the_same_form_and_other_signs_are_not() -> None:
    forms = TrainedForms.from_texts(["First 1 + 2 = 3; Then 3 - 1 = 2; #### 2", "* Bonn *", ""])
    assert forms.has_form("First 10 * 2 = 20; Then 20 - 1 = 19; Then 19 + 4 = 23; Then 23 + 1 = 24; #### 24")
    assert forms.has_form("* Rome *")
    for text in ("Rome", "1 + 2 = 3. 3 - 1 = 2. The answer is 2.", "First 1 + 2 = 3; Then 3 - 1 = 2;", ""):
        assert not forms.has_form(text)


def test_the_contrast_keeps_the_form_and_changes_the_fact() -> None:
    pair = contrast_answers(row("* Bob *", "Bob"), "Romeo.")
    assert pair is not None
    assert [one.answer for one in pair] == ["* Bob *", "* Romeo *"]
    assert contrast_answers(row("* Bob *", "Bob"), "Bob") is None
    assert contrast_answers(row("* Bob *", "Robert"), "Romeo") is None
    assert contrast_answers(row("* Bob *", "Bob"), " . ") is None


@pytest.mark.parametrize("shares", [True, False])
def test_log_odds_are_those_of_the_whole_answers(shares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = build_context()
    if not shares:
        monkeypatch.setattr("holdfast.training.prompt_sharing.supports_shared_prefix", lambda *_: False)
    pairs = [(row("3"), row("4")), (row("twelve and 5"), row("9")), (row("3"), row("3 4 5 6"))]
    with torch.no_grad():
        odds = compute_log_odds(context.base, pairs, context)
        assert compute_log_odds(context.base, [pair[::-1] for pair in pairs], context) == pytest.approx(-odds)
    logps = []
    for one in (one for pair in pairs for one in pair):
        ids, mask = context.chat.encode(one.messages)
        with torch.no_grad():
            logits = context.base.causal(torch.tensor([list(map(int, ids))])).logits.log_softmax(-1)[0]
        logps.append(sum(float(logits[i - 1, ids[i]]) for i, on in enumerate(mask) if on))
    assert odds == pytest.approx((sum(logps[::2]) - sum(logps[1::2])) / 3, abs=1e-4)


def test_a_prompt_is_read_once_for_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = build_context()
    other = replace(row("5"), messages=[{"role": "user", "content": "Who else, and why?"}, *row("5").messages[1:]])
    rows = [row("3"), row("4 and 5"), other, row("6")]
    sequences = encode_conversations([one.messages for one in rows], context.chat)
    read, compute = [], context.base.token_logps
    monkeypatch.setattr(context.base, "token_logps", lambda batch: read.append(batch.tokens) or compute(batch))
    with torch.no_grad():
        scores = score_answers(context.base, sequences, context.chat.pad_id)
        alone = [score_answers(context.base, [one], context.chat.pad_id)[0] for one in sequences]
    assert scores == pytest.approx(alone, abs=1e-4)
    assert read[0] == sum(read[1:]) - count_prompt(sequences[0])  # the second answer has no prompt of its own


def test_the_base_against_itself_learned_neither() -> None:
    context, _ = build_context(is_changed=False)
    with torch.no_grad():
        section = FormsFacts(items=4, max_tokens=8).measure(context)
    for _, _, before, after, new, said, odds_before, odds_after in section.table.rows:
        assert before == after
        assert odds_before == odds_after
        assert said in (0.0, None)
        assert (new == 0) == (said is None)


def test_the_sentence_holds_form_against_facts() -> None:
    text = describe_measures(
        [("trained on", Adoption(10, 0, 90, 8, 75, -2.0, 1.0)), ("held out", Adoption(5, 0, 80, 0, None, None, None))]
    )
    assert text == (
        "Of 10 questions trained on 90 % are answered in the trained form (0 % before), and of the 8 to which the base "
        "says something else 75 % as the rows do; of 5 questions held out 80 % are answered in the trained form (0 % "
        "before)."
    )
