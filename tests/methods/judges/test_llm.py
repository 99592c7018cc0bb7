"""llm: the question put, and how the reply is read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from holdfast.axes.engine import Sample
from holdfast.axes.judge import JudgeRequest
from holdfast.errors import UserError
from holdfast.methods.judges.llm import LLM


def engine(reply, log=None):
    """A draw that answers every prompt with `reply(prompt)`."""

    def draw(requests, params, on_sample=None):
        if log is not None:
            log.extend((r.key, r.messages[0]["content"]) for r in requests)
        return {r.key: [Sample(r.key, 0, reply(r.messages[0]["content"]), "stop", 1)] for r in requests}

    return draw


def ask(reply, response="Paris", reference="Paris is it", **knobs):
    judge = LLM(**knobs).with_engine(engine(lambda prompt: reply))
    return judge.judge(JudgeRequest([{"role": "user", "content": "Capital of France?"}], response, reference))


@pytest.mark.parametrize(
    ("reply", "passed", "failed"),
    [
        ("yes", True, False),
        ("Yes.", True, False),
        ("No, it is not; yes would be wrong", False, False),
        ("They say yes and no. Verdict: no", False, False),
        ("No idea at first, but... **Correct:** yes", True, False),
        ("I cannot tell", False, True),
        ("", False, True),
        ("nobody yesterday", False, True),
    ],
)
def test_replies(reply, passed, failed):
    verdict = ask(reply)
    assert (verdict.passed, verdict.failed) == (passed, failed)


def test_reason_holds_the_whole_prompt():
    reason = ask("yes").reason
    assert "Capital of France?" in reason
    assert "Proposed answer:\nParis" in reason
    assert "Paris is it" in reason


def test_braces_in_texts_stay_and_templates_are_checked():
    reason = ask("yes", response="{reference} {x}", reference={"a": [1]}).reason
    assert "{reference} {x}" in reason
    assert '{"a": [1]}' in reason
    with pytest.raises(ValidationError, match=r"lacks \{response\}"):
        LLM(prompt="{question} {reference}")
    assert "Q=Capital" in ask("yes", prompt="Q={question} {reference} {response}").reason


def test_equal_questions_are_asked_once_and_keys_are_stable():
    log = []
    judge = LLM().with_engine(engine(lambda prompt: "yes", log))
    answers = [JudgeRequest([{"role": "user", "content": q}], "a", "b") for q in ("1", "2", "1")]
    assert [v.passed for v in judge.judge_all(answers)] == [True] * 3
    judge.judge_all(answers)
    assert len(log) == 4
    assert log[:2] == log[2:]


def test_without_an_engine_it_says_so():
    with pytest.raises(UserError, match="needs a model"):
        LLM().judge(JudgeRequest([], "a", "b"))
    assert LLM.needs_engine
    assert LLM().find_reference_problem(None)
    assert LLM().find_reference_problem("x") is None
